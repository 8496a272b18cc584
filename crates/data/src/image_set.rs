//! A set of images of one shape, whatever it is stored in.

use crate::array::{is_array, split_name};
use crate::array_images::{ArrayImages, PixelRange, planar, shards};
use crate::folder::{Folder, holds_images};
use crate::idx::{self, Idx};
use crate::{Captions, Manifest, to_unit_range};
use heldout_core::{Error, Result};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Images of one shape, with labels where there are any; or clips, whose frames are channels.
#[derive(Debug)]
pub struct ImageSet {
    /// Short name.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Where it comes from, and its licence, where that is known.
    pub origin: Option<String>,
    /// `[channels, height, width]`; of clips all frames of a channel, then those of the next.
    pub shape: [usize; 3],
    /// Frames of a clip, 1 for images.
    pub frames: usize,
    /// Class of each image.
    pub labels: Option<Vec<i64>>,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    /// A text for each image, of a folder with `metadata.jsonl`.
    pub captions: Option<Captions>,
    /// What was taken for granted, where the files do not say it.
    pub assumed: Vec<String>,
    store: Store,
}

/// Where an IDX set is; `frames` of each example.
struct IdxFiles {
    images: PathBuf,
    labels: Option<PathBuf>,
    frames: usize,
}

#[derive(Debug)]
enum Store {
    /// `[N, H, W, C]`, of clips `[N, T, H, W]`.
    Bytes(Vec<u8>),
    Files(Folder),
    Arrays(ArrayImages),
}

impl ImageSet {
    /// Opens a folder with `dataset.toml`, an IDX file (plain or gzipped, labels beside it by MNIST's naming), a folder
    /// of PNG and JPEG files, which may lie in one subfolder per class and have texts in `metadata.jsonl`, or arrays: a `.npy`, `.npz` or `.safetensors` file,
    /// with the name of its array behind a colon where that is not plain, or a folder of such files.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_ranged(path, None)
    }

    /// As [`ImageSet::open`], where floats mean this; without it their minimum decides, and [`ImageSet::assumed`] says so.
    pub fn open_ranged(path: &Path, range: Option<PixelRange>) -> Result<Self> {
        let (file, _) = split_name(path);
        let metadata = std::fs::metadata(&file).map_err(Error::io(&file))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if metadata.is_file() && is_array(&file) {
            return Ok(Self::from_arrays(name, ArrayImages::open(&[path.to_owned()], range)?));
        }
        if metadata.is_file() {
            let labels = labels_beside(path).filter(|p| p.is_file());
            let idx = IdxFiles { images: path.to_owned(), labels, frames: 1 };
            return Self::from_idx(name.clone(), name, None, idx, Vec::new());
        }
        if !path.join("dataset.toml").is_file() {
            let arrays = shards(path)?;
            if !arrays.is_empty() && !holds_images(path)? {
                return Ok(Self::from_arrays(name, ArrayImages::open(&arrays, range)?));
            }
            let folder = Folder::open(path)?;
            let (shape, labels, classes) = (folder.shape, folder.labels.clone(), folder.classes.clone());
            let captions = Captions::read(path, &folder.paths)?;
            return Ok(Self {
                title: name.clone(),
                name,
                origin: None,
                shape,
                frames: 1,
                labels,
                classes,
                captions,
                assumed: Vec::new(),
                store: Store::Files(folder),
            });
        }
        let m = Manifest::read(path)?;
        let labels = m.labels.as_ref().map(|l| path.join(l));
        let origin = Some(format!("{}; licence {}", m.source, m.license));
        let images = path.join(&m.images);
        let idx = IdxFiles { images: images.clone(), labels, frames: m.frames };
        let set = Self::from_idx(m.name, m.title, origin, idx, m.classes)?;
        if (set.len(), set.shape) != (m.count, [m.frames * m.channels, m.height, m.width]) {
            let reason =
                format!("holds {} images of {:?}: dataset.toml says otherwise", set.len(), set.shape);
            return Err(Error::file(images, reason));
        }
        Ok(set)
    }

    fn from_idx(
        name: String,
        title: String,
        origin: Option<String>,
        IdxFiles { images, labels, frames }: IdxFiles,
        classes: Vec<String>,
    ) -> Result<Self> {
        let Idx { dims, bytes } = idx::read(&images)?;
        let shape = match dims[..] {
            [_, t, h, w] if frames > 1 && t == frames => [t, h, w],
            [_, h, w] if frames == 1 => [1, h, w],
            [_, h, w, c @ (1 | 3)] if frames == 1 => [c, h, w],
            _ => {
                let known = match frames {
                    1 => "images are [N, H, W] or [N, H, W, 3]".to_owned(),
                    t => format!("clips of {t} frames are grey, [N, {t}, H, W]"),
                };
                return Err(Error::file(images, format!("dimensions {dims:?}: {known}")));
            }
        };
        let labels = labels.map(|path| {
            let found = idx::read(&path)?;
            if found.dims != [dims[0]] {
                let reason =
                    format!("dimensions {:?}: labels of {} images are [{}]", found.dims, dims[0], dims[0]);
                return Err(Error::file(path, reason));
            }
            Ok(found.bytes.into_iter().map(i64::from).collect())
        });
        Ok(Self {
            name,
            title,
            origin,
            shape,
            frames,
            labels: labels.transpose()?,
            classes,
            captions: None,
            assumed: Vec::new(),
            store: Store::Bytes(bytes),
        })
    }

    fn from_arrays(name: String, mut arrays: ArrayImages) -> Self {
        Self {
            title: name.clone(),
            name,
            origin: None,
            shape: arrays.shape,
            frames: 1,
            labels: arrays.labels.take(),
            classes: Vec::new(),
            captions: None,
            assumed: std::mem::take(&mut arrays.assumed),
            store: Store::Arrays(arrays),
        }
    }

    /// Images.
    pub fn len(&self) -> usize {
        match &self.store {
            Store::Bytes(bytes) => bytes.len() / self.pixels(),
            Store::Files(folder) => folder.paths.len(),
            Store::Arrays(arrays) => arrays.len(),
        }
    }

    /// Never true for a set that was opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What one of them is, for people: `16x16 pixels, grey`.
    pub fn form(&self) -> String {
        let [channels, height, width] = self.shape;
        let colour = if channels == self.frames { "grey" } else { "RGB" };
        match self.frames {
            1 => format!("{width}x{height} pixels, {colour}"),
            frames => format!("{frames} frames of {width}x{height} pixels, {colour}"),
        }
    }

    /// Numbers of one image.
    pub fn pixels(&self) -> usize {
        self.shape.iter().product()
    }

    /// One image as `[C, H, W]`, or the file that cannot be read.
    pub fn image(&self, index: usize) -> Result<Vec<u8>> {
        match &self.store {
            Store::Files(folder) => folder.read(index),
            Store::Arrays(arrays) => Ok(arrays.read(index)),
            Store::Bytes(bytes) => {
                let image = &bytes[index * self.pixels()..(index + 1) * self.pixels()];
                Ok(planar(image, self.shape[0] / self.frames))
            }
        }
    }

    /// Images as u8 `[n, C, H, W]`; files are decoded on all cores.
    pub fn bytes(&self, indices: &[usize]) -> Result<Tensor> {
        let images: Vec<Vec<u8>> = indices.par_iter().map(|i| self.image(*i)).collect::<Result<_>>()?;
        let [c, h, w] = self.shape.map(|n| n as i64);
        Ok(Tensor::from_slice(&images.concat()).view([indices.len() as i64, c, h, w]))
    }

    /// Images as f32 in `[-1, 1]`, `[n, C, H, W]` on `device`.
    pub fn tensor(&self, indices: &[usize], device: Device) -> Result<Tensor> {
        Ok(to_unit_range(&self.bytes(indices)?.to_device(device)))
    }
}

/// `..-labels-idx1-ubyte..` beside `..-images-idx3-ubyte..`.
fn labels_beside(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let labels = name.replace("images-idx3", "labels-idx1");
    (labels != name).then(|| images.with_file_name(labels))
}
