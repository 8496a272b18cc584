//! A model's weights on disk, opened but not read.

use crate::choose::{CONFIG, Chosen, Listing};
use crate::shard::{self, Shard};
use crate::{Shapes, pickle};
use heldout_core::{Error, Result};
use safetensors::tensor::{Dtype, TensorInfo};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The weights of one model: a folder as diffusers writes it, or a single safetensors file.
///
/// Files are mapped: opening reads headers only, and weights are read one tensor at a time when they are asked for.
#[derive(Debug)]
pub struct WeightFiles {
    path: PathBuf,
    config: Option<Map<String, Value>>,
    shards: Vec<Shard>,
    /// The shard of each tensor.
    shard_of: BTreeMap<String, usize>,
}

/// `*.safetensors.index.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    pub(crate) weight_map: BTreeMap<String, String>,
}

impl WeightFiles {
    /// Opens a model folder, a `.safetensors` file or an index of shards.
    ///
    /// In a folder, `variant` (as in `fp16`) picks `diffusion_pytorch_model.fp16.safetensors`; without it, the plain
    /// name. `model.safetensors` is taken where there is no `diffusion_pytorch_model`. Beside a single file, a
    /// `config.json` is read as its config if it is there.
    ///
    /// # Errors
    /// A folder without weights, of a pipeline or with pickles only; a file that is missing, truncated or at odds
    /// with its index. Every message names the file and what to do.
    pub fn open(path: &Path, variant: Option<&str>) -> Result<Self> {
        if path.is_dir() {
            let chosen = list(path)?.choose(path, variant).map_err(|reason| Error::file(path, reason))?;
            return match chosen {
                Chosen::Single(file) => Self::of(path, path, vec![Shard::open(&path.join(file))?]),
                Chosen::Index(index) => Self::of(path, path, shards(&path.join(index))?),
            };
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new(""));
        if pickle::is_pickle(path) && path.is_file() {
            return Err(Error::file(path, pickle::remedy(path, &path.with_extension("safetensors"))));
        }
        if name.ends_with(".json") && name.contains(".safetensors.index") {
            return Self::of(path, folder, shards(path)?);
        }
        if path.is_file() && !name.ends_with(".safetensors") {
            return Err(Error::file(
                path,
                "is not a .safetensors file: give one, or the folder of a model".to_owned(),
            ));
        }
        Self::of(path, folder, vec![Shard::open(path)?])
    }

    fn of(path: &Path, folder: &Path, shards: Vec<Shard>) -> Result<Self> {
        let mut shard_of: BTreeMap<String, usize> = BTreeMap::new();
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.tensors.keys() {
                if let Some(first) = shard_of.insert(name.clone(), i) {
                    let other = shards[first].path.display();
                    let reason = format!("{name}: is in {other} too: fetch or save the model again");
                    return Err(Error::file(&shard.path, reason));
                }
            }
        }
        Ok(Self { path: path.to_owned(), config: read_config(&folder.join(CONFIG))?, shards, shard_of })
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The fields of `config.json`.
    ///
    /// # Errors
    /// There is none beside the weights.
    pub fn config(&self) -> Result<&Map<String, Value>> {
        self.config
            .as_ref()
            .ok_or_else(|| Error::file(&self.path, "has no config.json beside it: put one there".to_owned()))
    }

    /// Names and shapes of all tensors, by name.
    pub fn shapes(&self) -> Shapes {
        self.shard_of.keys().filter_map(|name| Some((name.clone(), self.shape(name)?))).collect()
    }

    /// The shape of one tensor.
    pub fn shape(&self, name: &str) -> Option<Vec<i64>> {
        self.info(name).map(shard::shape)
    }

    /// Reads one tensor in the kind of the file, on the CPU.
    ///
    /// # Errors
    /// There is no such tensor, or its dtype is none of F16, BF16, F32 and F64.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        match self.shard_of.get(name) {
            Some(i) => self.shards[*i].read(name),
            None => Err(Error::file(&self.path, format!("{name}: no tensor of this name"))),
        }
    }

    /// The kind that most numbers have.
    pub fn kind(&self) -> Option<Kind> {
        let infos = self.shard_of.keys().filter_map(|name| self.info(name));
        let mut counts: Vec<(Kind, i64)> = Vec::new();
        for info in infos {
            let Some(kind) = shard::kind(info.dtype) else { continue };
            let size: i64 = shard::shape(info).iter().product();
            match counts.iter_mut().find(|(seen, _)| *seen == kind) {
                Some((_, count)) => *count += size,
                None => counts.push((kind, size)),
            }
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(kind, _)| kind)
    }

    /// The dtype of a tensor that cannot be read as weights.
    pub(crate) fn odd_dtype(&self, name: &str) -> Option<Dtype> {
        self.info(name).map(|info| info.dtype).filter(|d| shard::kind(*d).is_none())
    }

    fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.shards[*self.shard_of.get(name)?].tensors.get(name)
    }
}

/// Reads an index and opens its shards, which must hold what it lists.
fn shards(index: &Path) -> Result<Vec<Shard>> {
    let folder = index.parent().unwrap_or(Path::new(""));
    let weight_map = read_index(index)?.weight_map;
    let names: BTreeSet<&String> = weight_map.values().collect();
    let open = |name| {
        let path = folder.join(name);
        if !path.is_file() {
            let reason = format!("lists the shard {name}, which is not there: fetch or save the model again");
            return Err(Error::file(index, reason));
        }
        Ok((name, Shard::open(&path)?))
    };
    let opened: BTreeMap<&String, Shard> = names.into_iter().map(open).collect::<Result<_>>()?;
    for (tensor, shard) in &weight_map {
        if !opened[shard].tensors.contains_key(tensor) {
            let reason =
                format!("{tensor}: listed in {shard}, which lacks it: fetch or save the model again");
            return Err(Error::file(index, reason));
        }
    }
    Ok(opened.into_values().collect())
}

/// Reads an index; the shards that it names must lie beside it.
pub(crate) fn read_index(path: &Path) -> Result<Index> {
    let text = fs::read(path).map_err(Error::io(path))?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|e| Error::file(path, format!("is no index of shards: {e}; fetch or save it again")))?;
    for name in index.weight_map.values() {
        if name.contains(['/', '\\']) || !name.ends_with(".safetensors") {
            let reason = format!("names the shard `{name}`: only .safetensors files beside it are read");
            return Err(Error::file(path, reason));
        }
    }
    if index.weight_map.is_empty() {
        return Err(Error::file(path, "lists no tensor: fetch or save the model again"));
    }
    Ok(index)
}

fn read_config(path: &Path) -> Result<Option<Map<String, Value>>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::io(path)(e)),
    };
    let config = serde_json::from_slice(&text)
        .map_err(|e| Error::file(path, format!("is no JSON object: {e}; fetch or write it again")))?;
    Ok(Some(config))
}

/// What a folder on disk holds.
fn list(folder: &Path) -> Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.join(CONFIG).is_file() {
            listing.models.push(name);
        } else if path.is_file() {
            listing.files.push(name);
        }
    }
    listing.models.sort();
    Ok(listing)
}
