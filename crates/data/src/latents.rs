//! Latents of a data set on disk.

use crate::Examples;
use crate::array::{ArrayFile, Element};
use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::ops::Range;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const INDEX: &str = "latents.json";
const ARRAY: &str = "latents";
/// Numbers of a shard, about 64 MB.
const SHARD: usize = 1 << 24;

/// What the latents of a folder were made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentSource {
    /// Of the autoencoder, the data and what was done to the images: latents of other sources are others.
    pub fingerprint: String,
    /// The same for people.
    pub autoencoder: String,
    /// The data set.
    pub data: String,
}

/// `latents.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    source: LatentSource,
    count: usize,
    /// `[C, H, W]`.
    shape: [usize; 3],
}

/// Latents of one shape in the order of their images, f32, in shards of safetensors that are mapped, not read.
#[derive(Debug)]
pub struct LatentCache {
    shards: Vec<ArrayFile>,
    per_shard: usize,
    count: usize,
    shape: [usize; 3],
    /// The class of each, where they have one.
    pub labels: Option<Vec<i64>>,
}

impl LatentCache {
    /// Opens the latents in `folder`; `None` where there are none.
    ///
    /// # Errors
    /// They are of another source, a shard is missing or damaged: the message names the file and the remedy.
    pub fn open(folder: &Path, source: &LatentSource) -> Result<Option<Self>> {
        let path = folder.join(INDEX);
        let text = match fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(Error::io(&path))?,
        };
        let index: Index =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("{e}: remove the folder")))?;
        if index.source.fingerprint != source.fingerprint {
            let reason = format!(
                "holds latents of {} by {}, made otherwise than those of {} by {}: remove the folder, or name another",
                index.source.data, index.source.autoencoder, source.data, source.autoencoder
            );
            return Err(Error::file(folder, reason));
        }
        let [c, h, w] = index.shape;
        let per_shard = rows_of_shard(index.shape);
        let open = |i: usize| {
            let path = shard_path(folder, i);
            let shard = ArrayFile::open(&path, Some(ARRAY), &[])?;
            let rows = per_shard.min(index.count - i * per_shard);
            if shard.header.dims != [rows, c, h, w] || shard.header.element != Element::F32 {
                let reason = format!(
                    "latents of {:?}, where {INDEX} says [{rows}, {c}, {h}, {w}]: remove the folder",
                    shard.header.dims
                );
                return Err(Error::file(path, reason));
            }
            Ok(shard)
        };
        let shards = (0..index.count.div_ceil(per_shard)).map(open).collect::<Result<Vec<_>>>()?;
        Ok(Some(Self { shards, per_shard, count: index.count, shape: index.shape, labels: None }))
    }

    /// Writes latents of `count` images into `folder`: `encode` gives those of `batch` images at a time, `[n, C, H, W]`, on any
    /// device. The folder is whole or not there; what it held is replaced.
    ///
    /// # Errors
    /// Whatever `encode` and the file system say; latents that are not finite.
    pub fn write(
        folder: &Path,
        source: &LatentSource,
        count: usize,
        mut encode: impl FnMut(Range<usize>) -> Result<Tensor>,
        batch: usize,
    ) -> Result<Self> {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        let aside = parent.join(format!(".writing-{name}"));
        let _ = fs::remove_dir_all(&aside); // of a process that was killed
        fs::create_dir(&aside).map_err(Error::io(&aside))?;
        let mut fill = || -> Result<()> {
            let mut writer = ShardWriter::new(&aside);
            for first in (0..count).step_by(batch.max(1)) {
                let images = first..(first + batch.max(1)).min(count);
                let latents =
                    tch::no_grad(|| encode(images.clone()))?.to_device(Device::Cpu).to_kind(Kind::Float);
                if !latents.sum(Kind::Double).double_value(&[]).is_finite() {
                    let reason = format!("of images {first} to {}: not finite", images.end - 1);
                    return Err(Error::config("latents", reason));
                }
                writer.add(latents)?;
            }
            let shape = writer.finish()?;
            let path = aside.join(INDEX);
            let index = Index { source: source.clone(), count, shape };
            let text = serde_json::to_vec_pretty(&index).map_err(|e| Error::file(&path, e.to_string()))?;
            fs::write(&path, text).map_err(Error::io(&path))?;
            File::open(&aside).and_then(|f| f.sync_all()).map_err(Error::io(&aside))
        };
        let place = || {
            if folder.exists() {
                fs::remove_dir_all(folder).map_err(Error::io(folder))?;
            }
            fs::rename(&aside, folder).map_err(Error::io(folder))
        };
        if let Err(e) = fill().and_then(|()| place()) {
            let _ = fs::remove_dir_all(&aside); // the error that is reported is the first one
            return Err(e);
        }
        Self::open(folder, source)?.ok_or_else(|| Error::file(folder, "vanished while it was written"))
    }

    /// `[C, H, W]` of each.
    pub fn shape(&self) -> [i64; 3] {
        self.shape.map(|n| n as i64)
    }

    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Cuts latents that come in batches into shards.
struct ShardWriter<'a> {
    folder: &'a Path,
    /// What is not written yet, and its rows.
    pending: Vec<Tensor>,
    held: usize,
    written: usize,
    shape: Option<[usize; 3]>,
}

impl<'a> ShardWriter<'a> {
    fn new(folder: &'a Path) -> Self {
        Self { folder, pending: Vec::new(), held: 0, written: 0, shape: None }
    }

    /// Adds `[n, C, H, W]`; full shards are written.
    fn add(&mut self, latents: Tensor) -> Result<()> {
        let size = latents.size();
        let shape = *self.shape.get_or_insert([size[1], size[2], size[3]].map(|n| n as usize));
        self.held += size[0] as usize;
        self.pending.push(latents);
        while self.held >= rows_of_shard(shape) {
            self.write(rows_of_shard(shape))?;
        }
        Ok(())
    }

    /// Writes the rest; gives `[C, H, W]`.
    fn finish(mut self) -> Result<[usize; 3]> {
        let shape = self.shape.ok_or_else(|| Error::config("latents", "of no image"))?;
        if self.held > 0 {
            self.write(self.held)?;
        }
        Ok(shape)
    }

    fn write(&mut self, rows: usize) -> Result<()> {
        let all = Tensor::cat(&self.pending, 0);
        write_shard(&shard_path(self.folder, self.written), &all.narrow(0, 0, rows as i64))?;
        let rest = self.held - rows;
        self.pending = vec![all.narrow(0, rows as i64, rest as i64)];
        (self.held, self.written) = (rest, self.written + 1);
        Ok(())
    }
}

fn rows_of_shard(shape: [usize; 3]) -> usize {
    (SHARD / shape.iter().product::<usize>().max(1)).max(1)
}

fn shard_path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{ARRAY}-{number:05}.safetensors"))
}

fn write_shard(path: &Path, latents: &Tensor) -> Result<()> {
    Tensor::write_safetensors(&[(ARRAY, latents.contiguous())], path)
        .map_err(|e| Error::file(path, e.to_string()))?;
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path))
}

/// Latents as they are.
impl Examples for LatentCache {
    fn len(&self) -> usize {
        self.count
    }

    fn bytes_each(&self) -> usize {
        4 * self.numbers()
    }

    fn stored(&self, indices: &[usize]) -> Result<Tensor> {
        let numbers = self.numbers();
        let mut bytes = Vec::with_capacity(indices.len() * self.bytes_each());
        for index in indices {
            let (shard, row) = (index / self.per_shard, index % self.per_shard);
            bytes.extend_from_slice(self.shards[shard].bytes(row * numbers..(row + 1) * numbers));
        }
        let size = [&[indices.len() as i64][..], &self.shape()].concat();
        Ok(Tensor::f_from_data_size(&bytes, &size, Kind::Float)?)
    }

    fn values(&self, stored: &Tensor) -> Tensor {
        stored.shallow_clone()
    }

    fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }
}
