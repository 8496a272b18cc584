//! One array of a `.npy`, `.npz` or `.safetensors` file, mapped into memory: opening reads its header and no numbers.

mod npy;
mod npz;
mod tensors;

use half::{bf16, f16};
use heldout_core::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a number of the file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    Bf16,
    F32,
    F64,
}

impl Element {
    /// Bytes of one number.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// The number in `b`, little-endian from its start. Integers beyond 2^53 are rounded.
    fn number(self, b: [u8; 8]) -> f64 {
        let (two, four) = ([b[0], b[1]], [b[0], b[1], b[2], b[3]]);
        match self {
            Self::U8 => f64::from(b[0]),
            Self::I8 => f64::from(i8::from_le_bytes([b[0]])),
            Self::U16 => f64::from(u16::from_le_bytes(two)),
            Self::I16 => f64::from(i16::from_le_bytes(two)),
            Self::U32 => f64::from(u32::from_le_bytes(four)),
            Self::I32 => f64::from(i32::from_le_bytes(four)),
            Self::U64 => u64::from_le_bytes(b) as f64,
            Self::I64 => i64::from_le_bytes(b) as f64,
            Self::F16 => f16::from_le_bytes(two).to_f64(),
            Self::Bf16 => bf16::from_le_bytes(two).to_f64(),
            Self::F32 => f64::from(f32::from_le_bytes(four)),
            Self::F64 => f64::from_le_bytes(b),
        }
    }
}

/// Where the numbers of an array lie in its file, as its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) dims: Vec<usize>,
    pub(crate) element: Element,
    big_endian: bool,
    /// Whether the first index moves fastest.
    pub(crate) fortran: bool,
    /// First byte of the numbers.
    start: usize,
}

impl Header {
    /// Bytes of all numbers; `None` where no file is as large.
    fn bytes(&self) -> Option<usize> {
        self.dims.iter().try_fold(self.element.width(), |n, d| n.checked_mul(*d))
    }
}

/// An array of numbers on disk.
#[derive(Debug, Clone)]
pub(crate) struct ArrayFile {
    pub(crate) path: PathBuf,
    pub(crate) header: Header,
    map: Arc<Mmap>,
}

/// Endings of the files that hold arrays.
pub(crate) const ENDINGS: [&str; 3] = ["npy", "npz", "safetensors"];

/// Whether the file's name says that it holds arrays.
pub(crate) fn is_array(path: &Path) -> bool {
    path.extension().is_some_and(|e| ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// A path that may end in the name of an array, as `features.safetensors:pool`.
pub(crate) fn split_name(path: &Path) -> (PathBuf, Option<String>) {
    let named = path.to_str().and_then(|text| text.rsplit_once(':'));
    match named.filter(|(file, name)| !path.exists() && !name.is_empty() && is_array(Path::new(file))) {
        Some((file, name)) => (PathBuf::from(file), Some(name.to_owned())),
        None => (path.to_owned(), None),
    }
}

impl ArrayFile {
    /// Opens the array `name` of a file; without a name the only one, or the first of `usual` that is there.
    ///
    /// # Errors
    /// The file is damaged, or its length is not what its header promises; it has no such array, or several and none of
    /// the usual names; its numbers are none that are read.
    pub(crate) fn open(path: &Path, name: Option<&str>, usual: &[&str]) -> Result<Self> {
        let map = map(path)?;
        let found = match ending(path).as_str() {
            "npy" if name.is_none() => npy::header(&map, 0..map.len()),
            "npy" => Err("holds one array without a name: leave the name out".to_owned()),
            "npz" => npz::header(&map, name, usual),
            _ => tensors::header(&map, name, usual),
        };
        let header = found.map_err(|reason| Error::file(path, reason))?;
        Ok(Self { path: path.to_owned(), header, map: Arc::new(map) })
    }

    /// Another array of the same file, where it is there.
    pub(crate) fn beside(&self, name: &str) -> Result<Option<Self>> {
        let found = match ending(&self.path).as_str() {
            "npz" => npz::optional(&self.map, name),
            "safetensors" => tensors::optional(&self.map, name),
            _ => Ok(None),
        };
        let header = found.map_err(|reason| Error::file(&self.path, reason))?;
        Ok(header.map(|header| Self { path: self.path.clone(), header, map: self.map.clone() }))
    }

    /// Whether numbers are as this machine has them, but for their alignment.
    pub(crate) fn is_little_endian(&self) -> bool {
        !self.header.big_endian
    }

    /// Numbers in the array.
    pub(crate) fn len(&self) -> usize {
        self.header.dims.iter().product()
    }

    /// The bytes of the numbers `range`, in the order of the file.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        let Header { start, element, .. } = self.header;
        &self.map[start + range.start * element.width()..start + range.end * element.width()]
    }

    /// The numbers `range`, in the order of the file.
    pub(crate) fn numbers(&self, range: Range<usize>) -> impl Iterator<Item = f64> + '_ {
        let Header { element, big_endian, .. } = self.header;
        let width = element.width();
        self.bytes(range).chunks_exact(width).map(move |bytes| {
            let mut b = [0; 8];
            b[..width].copy_from_slice(bytes);
            if big_endian {
                b[..width].reverse();
            }
            element.number(b)
        })
    }
}

fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_lowercase()
}

fn map(path: &Path) -> Result<Mmap> {
    let file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    if length == 0 {
        return Err(Error::file(path, "is empty: write it again"));
    }
    // SAFETY: the map is read-only and is never handed out. A file that another process shortens meanwhile ends this one
    // by a signal, as with every mapped file.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
    if map.starts_with(b"version https://git-lfs") {
        return Err(Error::file(path, "is a pointer of Git LFS, not the numbers: run `git lfs pull`"));
    }
    Ok(map)
}

/// Which of several names to read: the one that was asked for, one of the usual ones, or the only one.
fn choose<'a>(names: &'a [String], wanted: Option<&str>, usual: &[&str]) -> Result<&'a String, String> {
    let list = || names.join(", ");
    let find = |name: &str| names.iter().find(|n| *n == name);
    match (wanted, names) {
        (Some(name), _) => find(name).ok_or_else(|| format!("holds no array `{name}`: it has {}", list())),
        (None, []) => Err("holds no array".to_owned()),
        (None, [only]) => Ok(only),
        (None, _) => usual.iter().find_map(|name| find(name)).ok_or_else(|| {
            format!("holds {} arrays: say which, as in FILE:{}; it has {}", names.len(), names[0], list())
        }),
    }
}
