//! A model's weights as a folder that diffusers reads.

use crate::choose::CONFIG;
use heldout_core::{Error, Result};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use tch::{Device, Kind, Tensor};

const STEM: &str = "diffusion_pytorch_model";
/// The size of a file above which diffusers begins another one, in bytes.
pub const MAX_SHARD_BYTES: u64 = 10_000_000_000;

/// `*.safetensors.index.json`, in diffusers' fields.
#[derive(Debug, Serialize)]
struct Index<'a> {
    metadata: Total,
    weight_map: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Serialize)]
struct Total {
    total_size: u64,
}

/// Writes `config.json` and the weights as diffusers does: one `diffusion_pytorch_model.safetensors`, or shards of at
/// most `max_shard_bytes` with an index. A tensor larger than that has a shard of its own.
///
/// The folder is written aside as `.writing-NAME`, synced and renamed: it is whole or not there. An earlier model in
/// its place is replaced. One tensor at a time is in host memory.
///
/// # Errors
/// A folder that holds anything but a saved model, a tensor whose kind is none of f16, bf16, f32 and f64, a name that
/// occurs twice, and whatever the file system refuses; the folder is then as it was.
pub fn save_folder(
    folder: &Path,
    config: &Map<String, Value>,
    tensors: &[(String, Tensor)],
    max_shard_bytes: u64,
) -> Result<()> {
    let mut entries = tensors.iter().map(|(name, t)| Entry::new(name, t)).collect::<Result<Vec<_>>>()?;
    entries.sort_by_key(|e| (e.name, e.bytes));
    if let Some(pair) = entries.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(Error::config(pair[0].name, "two tensors have this name: names must be unique"));
    }
    if max_shard_bytes == 0 {
        return Err(Error::config("max_shard_bytes", "0 bytes hold no tensor: use MAX_SHARD_BYTES"));
    }
    replace_folder(folder, is_model_file, |aside| write(aside, config, &entries, max_shard_bytes))
}

/// Whether a file or folder of this name belongs to a saved model.
fn is_model_file(name: &str, is_folder: bool) -> bool {
    let weights = name.starts_with(STEM)
        && (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json"));
    !is_folder && (weights || name == CONFIG)
}

/// Has `write` fill a folder aside, and puts it in the place of `folder`, which may hold nothing but what `is_ours`
/// knows by its name and by whether it is a folder.
pub(crate) fn replace_folder(
    folder: &Path,
    is_ours: impl Fn(&str, bool) -> bool,
    write: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    // `canonicalize` follows a link, whose target is to be replaced, and gives `.` a name.
    let folder = &fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let Some(name) = folder.file_name().map(|n| n.to_string_lossy().into_owned()) else {
        return Err(Error::file(folder, "is no name for a folder: give one that can be made"));
    };
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let (aside, old) = (parent.join(format!(".writing-{name}")), parent.join(format!(".replaced-{name}")));
    if old.exists() && !folder.exists() {
        fs::rename(&old, folder).map_err(Error::io(folder))?; // of a process that was killed while it replaced
    }
    check_replaceable(folder, is_ours)?;
    let fill = || {
        remove(&aside)?;
        fs::create_dir(&aside).map_err(Error::io(&aside))?;
        write(&aside)?;
        sync(&aside)
    };
    let written = fill().and_then(|()| put_in_place(&aside, &old, folder)).and_then(|()| sync(parent));
    if written.is_err() {
        let _ = fs::remove_dir_all(&aside); // the error that is reported is the first one
    }
    written
}

/// A tensor and what the header says of it.
#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    tensor: &'a Tensor,
    dtype: Dtype,
    bytes: u64,
}

impl<'a> Entry<'a> {
    fn new(name: &'a str, tensor: &'a Tensor) -> Result<Self> {
        let kind = tensor.f_kind()?;
        let dtype = match kind {
            Kind::Half => Dtype::F16,
            Kind::BFloat16 => Dtype::BF16,
            Kind::Float => Dtype::F32,
            Kind::Double => Dtype::F64,
            other => {
                let reason = format!("{other:?} is no kind of weights: save Half, BFloat16, Float or Double");
                return Err(Error::config(name, reason));
            }
        };
        if name == "__metadata__" {
            return Err(Error::config(name, "is reserved by safetensors: give the tensor another name"));
        }
        Ok(Self { name, tensor, dtype, bytes: (tensor.numel() * kind.elt_size_in_bytes()) as u64 })
    }
}

/// Only what is saved here may be lost by saving another in its place.
fn check_replaceable(folder: &Path, is_ours: impl Fn(&str, bool) -> bool) -> Result<()> {
    if folder.is_file() {
        return Err(Error::file(folder, "is a file: give a folder"));
    }
    if !folder.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !is_ours(&name, entry.path().is_dir()) {
            let reason =
                format!("holds {name}, which is no part of what is saved here: choose another folder");
            return Err(Error::file(folder, reason));
        }
    }
    Ok(())
}

fn put_in_place(aside: &Path, old: &Path, folder: &Path) -> Result<()> {
    if !folder.exists() {
        return fs::rename(aside, folder).map_err(Error::io(folder));
    }
    remove(old)?;
    fs::rename(folder, old).map_err(Error::io(folder))?;
    if let Err(e) = fs::rename(aside, folder) {
        let _ = fs::rename(old, folder); // the error that is reported is the first one
        return Err(Error::io(folder)(e));
    }
    remove(old)
}

fn write(
    aside: &Path,
    config: &Map<String, Value>,
    entries: &[Entry<'_>],
    max_shard_bytes: u64,
) -> Result<()> {
    write_json(&aside.join(CONFIG), config)?;
    let shards = split(entries, max_shard_bytes);
    if let [single] = shards.as_slice() {
        return write_shard(&aside.join(format!("{STEM}.safetensors")), single);
    }
    let count = shards.len();
    let names: Vec<String> =
        (1..=count).map(|i| format!("{STEM}-{i:05}-of-{count:05}.safetensors")).collect();
    let mut weight_map = BTreeMap::new();
    for (name, shard) in names.iter().zip(&shards) {
        write_shard(&aside.join(name), shard)?;
        weight_map.extend(shard.iter().map(|e| (e.name, name.as_str())));
    }
    let metadata = Total { total_size: entries.iter().map(|e| e.bytes).sum() };
    write_json(&aside.join(format!("{STEM}.safetensors.index.json")), &Index { metadata, weight_map })
}

/// Fills one shard after the other, in the order given; at least one.
fn split<'e, 'a>(entries: &'e [Entry<'a>], max_bytes: u64) -> Vec<Vec<&'e Entry<'a>>> {
    let (mut shards, mut filled) = (vec![Vec::new()], 0);
    for entry in entries {
        if filled + entry.bytes > max_bytes && filled > 0 {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += entry.bytes;
        let last = shards.len() - 1;
        shards[last].push(entry);
    }
    shards
}

/// Writes one safetensors file, a tensor at a time.
fn write_shard(path: &Path, entries: &[&Entry<'_>]) -> Result<()> {
    let mut entries = entries.to_vec();
    entries.sort_by_key(|e| (std::cmp::Reverse(e.dtype.bitsize()), e.name)); // wide first: each stays aligned
    let mut end = 0;
    let infos = entries.iter().map(|e| {
        let start = end;
        end += e.bytes as usize;
        let shape = e.tensor.size().iter().map(|d| *d as usize).collect();
        (e.name.to_owned(), TensorInfo { dtype: e.dtype, shape, data_offsets: (start, end) })
    });
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata =
        Metadata::new(Some(format), infos.collect()).map_err(|e| Error::file(path, e.to_string()))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| Error::file(path, e.to_string()))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
    file.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
    file.write_all(&header).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    for entry in entries {
        let on_host = tch::no_grad(|| entry.tensor.f_to_device(Device::Cpu)?.f_contiguous())?;
        bytes.resize(entry.bytes as usize, 0);
        on_host.f_copy_data_u8(&mut bytes, on_host.numel())?;
        file.write_all(&bytes).map_err(Error::io(path))?;
    }
    let file = file.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
    file.sync_all().map_err(Error::io(path))
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::file(path, e.to_string()))? + "\n";
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(Error::io(path))
}

/// Removes a folder of an earlier process, if it is there.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(folder)(e)),
        _ => Ok(()),
    }
}

fn sync(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))
}
