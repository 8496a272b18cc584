//! One safetensors file, mapped into memory: opening reads its header and no weights.

use heldout_core::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, SafeTensorError, SafeTensors, TensorInfo};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    map: Mmap,
    /// Where the weights start.
    data: usize,
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

impl Shard {
    /// Maps the file; its header must agree with itself and with the length of the file.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is read-only and lives in `Shard`. A file that another process shortens meanwhile ends this
        // one by a signal, as with every mapped file; our own files are replaced by renaming and never shortened.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path))?;
        let (header, metadata) =
            SafeTensors::read_metadata(&map).map_err(|e| Error::file(path, explain(&map, &e)))?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        Ok(Self { path: path.to_owned(), map, data: header + size_of::<u64>(), tensors })
    }

    /// A tensor of this file in its own kind, on the CPU.
    pub(crate) fn read(&self, name: &str) -> Result<Tensor> {
        let fail = |reason: String| Error::file(&self.path, format!("{name}: {reason}"));
        let info = self.tensors.get(name).ok_or_else(|| fail("not in this file".to_owned()))?;
        let kind = kind(info.dtype).ok_or_else(|| {
            fail(format!("{:?} is no dtype of weights: F16, BF16, F32 and F64 are read", info.dtype))
        })?;
        let (start, end) = info.data_offsets;
        let bytes = self.map.get(self.data + start..self.data + end);
        let bytes = bytes.ok_or_else(|| fail("beyond the end of the file".to_owned()))?;
        Ok(Tensor::f_from_data_size(bytes, &shape(info), kind)?)
    }
}

/// The kind of weights that are read; integers and packed formats need a meaning that the file does not give.
pub(crate) fn kind(dtype: Dtype) -> Option<Kind> {
    match dtype {
        Dtype::F16 => Some(Kind::Half),
        Dtype::BF16 => Some(Kind::BFloat16),
        Dtype::F32 => Some(Kind::Float),
        Dtype::F64 => Some(Kind::Double),
        _ => None,
    }
}

pub(crate) fn shape(info: &TensorInfo) -> Vec<i64> {
    info.shape.iter().map(|d| i64::try_from(*d).unwrap_or(i64::MAX)).collect()
}

fn explain(bytes: &[u8], error: &SafeTensorError) -> String {
    if bytes.starts_with(b"version https://git-lfs") {
        return "is a pointer of Git LFS, not the weights: run `git lfs pull` in its folder".to_owned();
    }
    let what = match error {
        SafeTensorError::MetadataIncompleteBuffer => "its tensors do not end where the file ends".to_owned(),
        SafeTensorError::InvalidHeaderLength | SafeTensorError::HeaderTooSmall => {
            "it ends within its header".to_owned()
        }
        SafeTensorError::HeaderTooLarge => "its first bytes are no header of safetensors".to_owned(),
        other => other.to_string(),
    };
    format!("damaged or truncated at {} bytes: {what}; remove it, then fetch or save it again", bytes.len())
}
