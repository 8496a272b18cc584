//! Images of any origin, in batches, of which no more than one is in memory.

use crate::array_images::{PixelRange, shards};
use crate::decode::{Head, decode, head, over_white};
use crate::reading::{Reading, Unreadable};
use crate::walk::{Walk, walk};
use crate::{ImageSet, to_unit_range};
use heldout_core::{Error, Result};
use image::imageops::{FilterType, resize};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Where a stream is that has said all.
const ENDED: usize = usize::MAX;

/// How to read images of unknown origin.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// `[height, width]` of what comes out; by default the size that most images have.
    pub size: Option<[usize; 2]>,
    /// Whether the first file that cannot be read, or an image of another size where none is asked for, is an error.
    pub strict: bool,
    /// What floats of arrays mean; by default their minimum says it.
    pub range: Option<PixelRange>,
    /// Images of a batch: bounds memory.
    pub batch_size: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self { size: None, strict: false, range: None, batch_size: 64 }
    }
}

/// Images of any origin as a sequence of batches.
///
/// A folder is gone through with all its subfolders, sorted by name; what cannot be read is left out and counted, unless
/// [`StreamOptions::strict`] is set. Grey and colour, palettes, 16 bits and transparency become bytes of one shape:
/// grey if all are grey, else RGB; transparent pixels lie over white. Where sizes differ images are resized, with a
/// triangle filter that is as wide as a pixel of the result, so that shrinking does not alias. [`ImageStream::reading`]
/// says how many images each of these concerned.
///
/// Everything else that [`ImageSet::open`] reads is read by it: IDX, arrays, and the data sets that ship.
///
/// Law: the images, their order and their indices are a function of the files and of the options but `batch_size`.
#[derive(Debug)]
pub struct ImageStream {
    /// Short name.
    pub name: String,
    /// `[channels, height, width]` of what comes out.
    pub shape: [usize; 3],
    /// Class of each image, by its index: what an [`ImageSet`] says, or else the folder below the root, where all images lie
    /// in such folders.
    pub labels: Option<Vec<i64>>,
    /// Names of the classes, by label.
    pub classes: Vec<String>,
    path: PathBuf,
    source: Source,
    options: StreamOptions,
    next: usize,
    reading: Reading,
}

#[derive(Debug)]
enum Source {
    Files(Vec<PathBuf>),
    Set(Box<ImageSet>),
}

/// Some images of a stream.
#[derive(Debug, Clone)]
pub struct ImageBatch {
    /// Of each image, its place among those that the stream began with.
    pub index: Vec<usize>,
    /// u8, `[n, C, H, W]`.
    pub pixels: Vec<u8>,
    /// SHA-256 of the size and the pixels of each image before it was resized: equal for equal content.
    pub content: Vec<[u8; 32]>,
    shape: [usize; 3],
}

impl ImageBatch {
    /// u8, `[n, C, H, W]`.
    pub fn bytes(&self) -> Tensor {
        let [c, h, w] = self.shape.map(|n| n as i64);
        Tensor::from_slice(&self.pixels).view([self.index.len() as i64, c, h, w])
    }

    /// f32 in `[-1, 1]`, `[n, C, H, W]` on `device`.
    pub fn tensor(&self, device: Device) -> Tensor {
        to_unit_range(&self.bytes().to_device(device))
    }
}

/// One image as it was read.
struct Read {
    pixels: Vec<u8>,
    content: [u8; 32],
    blended: bool,
    resized: bool,
}

impl ImageStream {
    /// Lists what is there and looks at every header.
    ///
    /// # Errors
    /// There is no image, or only one that can be read; a size or batch size of 0; under `strict`, the first file that
    /// cannot be read. Arrays and IDX files that are damaged are errors in either case: they have no part to leave out.
    pub fn open(path: &Path, options: StreamOptions) -> Result<Self> {
        if options.batch_size == 0 || options.size.is_some_and(|size| size.contains(&0)) {
            return Err(Error::config("size, batch_size", "0: at least 1 is needed"));
        }
        let plain = path.is_dir() && !path.join("dataset.toml").is_file();
        let found = if plain { walk(path)? } else { Walk::default() };
        let arrays = plain && found.images.is_empty() && !shards(path)?.is_empty();
        if plain && !arrays {
            return Self::of_files(path, found, options);
        }
        let set = ImageSet::open_ranged(path, options.range)?;
        if set.frames > 1 {
            let reason = format!("holds clips of {} frames, where images are needed", set.frames);
            return Err(Error::file(path, reason));
        }
        let [channels, height, width] = set.shape;
        let reading = Reading {
            found: set.len(),
            sizes: BTreeMap::from([([height, width], set.len())]),
            grey: if channels == 1 { set.len() } else { 0 },
            assumed: set.assumed.clone(),
            ..Reading::default()
        };
        let [height, width] = options.size.unwrap_or([height, width]);
        let stream = Self {
            name: set.name.clone(),
            shape: [channels, height, width],
            labels: set.labels.clone(),
            classes: set.classes.clone(),
            path: path.to_owned(),
            source: Source::Set(Box::new(set)),
            options,
            next: 0,
            reading,
        };
        stream.at_least_two(stream.len())?;
        Ok(stream)
    }

    fn of_files(path: &Path, found: Walk, options: StreamOptions) -> Result<Self> {
        let Walk { images, unreadable, ignored } = found;
        let heads: Vec<Result<Head>> = images.par_iter().map(|p| head(p)).collect();
        let mut reading = Reading {
            found: images.len() + unreadable.len(),
            ignored,
            unreadable: unreadable.into_iter().map(|(path, reason)| Unreadable { path, reason }).collect(),
            ..Reading::default()
        };
        let mut files = Vec::new();
        for (file, head) in images.into_iter().zip(heads) {
            match head {
                Ok(head) => {
                    *reading.sizes.entry(head.size).or_default() += 1;
                    reading.grey += usize::from(head.grey);
                    reading.deep += usize::from(head.deep);
                    files.push(file);
                }
                Err(e) => reading.unreadable.push(Unreadable::of(&file, e)),
            }
        }
        reading.before = reading.unreadable.len();
        if files.is_empty() && reading.unreadable.is_empty() {
            let reason = format!("holds no PNG or JPEG file, and {ignored} others: put images there");
            return Err(Error::file(path, reason));
        }
        if let Some(first) = reading.unreadable.first().filter(|_| options.strict) {
            return Err(Error::file(&first.path, first.reason.clone()));
        }
        if options.strict && options.size.is_none() && reading.sizes.len() > 1 {
            let reason = format!("{} sizes of images: make all one, or name a size", reading.sizes.len());
            return Err(Error::file(path, reason));
        }
        let channels = if reading.grey == files.len() { 1 } else { 3 };
        let [height, width] = options.size.unwrap_or_else(|| reading.most_common_size());
        let (labels, classes) = classes(path, &files);
        let stream = Self {
            name: path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            shape: [channels, height, width],
            labels,
            classes,
            path: path.to_owned(),
            source: Source::Files(files),
            options,
            next: 0,
            reading,
        };
        stream.at_least_two(stream.len())?;
        Ok(stream)
    }

    /// Images that the stream begins with; those whose pixels turn out to be damaged are among them.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Files(files) => files.len(),
            Source::Set(set) => set.len(),
        }
    }

    /// Never true for a stream that was opened.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What was read so far, and what was left out.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }

    /// Begins again with the first image.
    pub fn rewind(&mut self) {
        self.next = 0;
        self.reading.forget();
    }

    /// Makes images of this `[height, width]` come out, and begins again.
    pub fn resize(&mut self, [height, width]: [usize; 2]) {
        self.shape = [self.shape[0], height.max(1), width.max(1)];
        self.rewind();
    }

    /// A name for people: the file below the root, or the number of an image.
    pub fn label_of(&self, index: usize) -> String {
        match &self.source {
            Source::Files(files) => {
                files[index].strip_prefix(&self.path).unwrap_or(&files[index]).display().to_string()
            }
            Source::Set(set) => format!("{} {index}", set.name),
        }
    }

    /// One image as u8 `[C, H, W]`, by its index.
    pub fn image(&self, index: usize) -> Result<Vec<u8>> {
        Ok(self.read(index)?.pixels)
    }

    fn read(&self, index: usize) -> Result<Read> {
        let [channels, height, width] = self.shape;
        let (pixels, size, blended) = match &self.source {
            Source::Set(set) => (set.image(index)?, [set.shape[1], set.shape[2]], false),
            Source::Files(files) => {
                let image = decode(&files[index])?;
                let size = [image.height() as usize, image.width() as usize];
                let (pixels, blended) = over_white(&image, channels);
                (pixels, size, blended)
            }
        };
        let mut hash = Sha256::new();
        size.iter().for_each(|n| hash.update((*n as u64).to_le_bytes()));
        hash.update(&pixels);
        let content = hash.finalize().into();
        let resized = size != [height, width];
        let pixels = if resized { resized_to(&pixels, size, [height, width]) } else { pixels };
        Ok(Read { pixels, content, blended, resized })
    }

    fn next_batch(&mut self) -> Result<Option<ImageBatch>> {
        while self.next < self.len() {
            let indices: Vec<usize> =
                (self.next..(self.next + self.options.batch_size).min(self.len())).collect();
            self.next += indices.len();
            let images: Vec<Result<Read>> = indices.par_iter().map(|i| self.read(*i)).collect();
            let shape = self.shape;
            let mut batch = ImageBatch { index: Vec::new(), pixels: Vec::new(), content: Vec::new(), shape };
            for (i, image) in indices.into_iter().zip(images) {
                match (image, &self.source) {
                    (Ok(image), _) => {
                        self.reading.read += 1;
                        self.reading.blended += usize::from(image.blended);
                        self.reading.resized += usize::from(image.resized);
                        batch.index.push(i);
                        batch.pixels.extend(image.pixels);
                        batch.content.push(image.content);
                    }
                    (Err(e), Source::Files(files)) if !self.options.strict => {
                        self.reading.unreadable.push(Unreadable::of(&files[i], e));
                    }
                    (Err(e), _) => return Err(e),
                }
            }
            if !batch.index.is_empty() {
                return Ok(Some(batch));
            }
        }
        self.at_least_two(self.reading.read)?;
        Ok(None)
    }

    fn at_least_two(&self, readable: usize) -> Result<()> {
        if readable >= 2 {
            return Ok(());
        }
        let why = self.reading.unreadable.first().map_or(String::new(), |u| {
            let others = self.reading.unreadable.len();
            format!("; {others} cannot be read, the first being {}: {}", u.path.display(), u.reason)
        });
        Err(Error::file(&self.path, format!("{readable} readable images: at least 2 are needed{why}")))
    }
}

/// Batches up to the end, or up to the first error.
impl Iterator for ImageStream {
    type Item = Result<ImageBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next == ENDED {
            return None;
        }
        let next = self.next_batch().transpose();
        if !matches!(next, Some(Ok(_))) {
            self.next = ENDED;
        }
        next
    }
}

/// The folder below `root` of every file, as a class; none where a file lies in the root itself.
fn classes(root: &Path, files: &[PathBuf]) -> (Option<Vec<i64>>, Vec<String>) {
    let class = |file: &PathBuf| {
        let mut parts = file.strip_prefix(root).ok()?.iter();
        let first = parts.next()?.to_string_lossy().into_owned();
        parts.next().map(|_| first)
    };
    let Some(of) = files.iter().map(class).collect::<Option<Vec<String>>>() else {
        return (None, Vec::new());
    };
    let mut names = of.clone();
    names.sort();
    names.dedup();
    let label = |name: &String| names.binary_search(name).map_or(0, |i| i as i64);
    (Some(of.iter().map(label).collect()), names)
}

/// Each plane of `[C, H, W]` by itself.
fn resized_to(pixels: &[u8], [height, width]: [usize; 2], [to_height, to_width]: [usize; 2]) -> Vec<u8> {
    let plane = |plane: &[u8]| {
        let image = image::GrayImage::from_raw(width as u32, height as u32, plane.to_vec());
        let image = image.unwrap_or_default(); // a plane has as many pixels as it has
        resize(&image, to_width as u32, to_height as u32, FilterType::Triangle).into_raw()
    };
    pixels.chunks_exact(height * width).flat_map(plane).collect()
}
