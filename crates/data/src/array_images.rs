//! Images in arrays: `.npy`, `.npz`, safetensors, or a folder of such shards.

use crate::array::{ArrayFile, Element, is_array, split_name};
use heldout_core::{Error, Result};
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// What floats of images mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PixelRange {
    /// 0 is black, 1 is white.
    Unit,
    /// -1 is black, 1 is white.
    Signed,
}

impl PixelRange {
    fn lowest(self) -> f64 {
        if self == Self::Signed { -1.0 } else { 0.0 }
    }

    /// The nearest byte; what lies outside is cut.
    fn byte(self, value: f64) -> u8 {
        let low = self.lowest();
        ((value - low) / (1.0 - low) * 255.0).round().clamp(0.0, 255.0) as u8
    }
}

impl std::fmt::Display for PixelRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}, 1]", self.lowest())
    }
}

/// Names under which images and their labels are looked for; `arr_0` and `arr_1` are what `numpy.savez` calls what it is
/// given without a name, as the sample files of ADM are written.
const IMAGES: [&str; 2] = ["images", "arr_0"];
const LABELS: &str = "labels";
const SECOND: &str = "arr_1";
/// Floats may lie outside of their range by this and are cut; beyond it the range is not what it seems.
const OVERSHOOT: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `[N, C, H, W]`, or `[N, H, W]`.
    Planar,
    /// `[N, H, W, C]`.
    Interleaved,
}

/// Images of one shape in one or several files. Numbers stay on disk.
#[derive(Debug)]
pub(crate) struct ArrayImages {
    shards: Vec<ArrayFile>,
    /// Images up to the end of each shard.
    ends: Vec<usize>,
    layout: Layout,
    /// `[channels, height, width]` of every image.
    pub(crate) shape: [usize; 3],
    pub(crate) labels: Option<Vec<i64>>,
    /// Of floats.
    range: Option<PixelRange>,
    /// What was taken for granted, where the files do not say it.
    pub(crate) assumed: Vec<String>,
}

/// The array files of a folder, sorted by name.
pub(crate) fn shards(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let paths = entries.map(|e| e.map(|e| e.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = paths.map_err(Error::io(folder))?;
    paths.retain(|p| is_array(p) && p.is_file());
    paths.sort();
    Ok(paths)
}

impl ArrayImages {
    /// Opens files whose images are in this order. Floats are looked through once, for their range and for numbers that
    /// are none.
    pub(crate) fn open(paths: &[PathBuf], range: Option<PixelRange>) -> Result<Self> {
        let open = |path: &PathBuf| {
            let (file, name) = split_name(path);
            ArrayFile::open(&file, name.as_deref(), &IMAGES)
        };
        let shards: Vec<ArrayFile> = paths.iter().map(open).collect::<Result<_>>()?;
        let Some(first) = shards.first() else {
            return Err(Error::config("images", "no file"));
        };
        let (shape, layout, ambiguous) = layout(first)?;
        let (mut ends, mut count) = (Vec::new(), 0);
        for shard in &shards {
            let header = &shard.header;
            if header.dims.get(1..) != first.header.dims.get(1..) || header.element != first.header.element {
                let reason = format!(
                    "shape {:?} of {:?}, where {} has {:?} of {:?}: make all alike",
                    header.dims,
                    header.element,
                    first.path.display(),
                    first.header.dims,
                    first.header.element
                );
                return Err(Error::file(&shard.path, reason));
            }
            count += header.dims[0];
            ends.push(count);
        }
        let element = first.header.element;
        if element != Element::U8 && !element.is_float() {
            let reason = format!("numbers of {element:?}: images are U8, or floats in [0, 1] or [-1, 1]");
            return Err(Error::file(&first.path, reason));
        }
        let labels = labels(&shards)?;
        let mut images = Self { shards, ends, layout, shape, labels, range: None, assumed: Vec::new() };
        if ambiguous {
            images.assumed.push("the channels come before the rows, since both readings fit".to_owned());
        }
        if element.is_float() {
            images.find_range(range)?;
        }
        Ok(images)
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// The file of an image, and its place there.
    fn place(&self, index: usize) -> (&ArrayFile, usize) {
        let shard = self.ends.partition_point(|end| *end <= index);
        (&self.shards[shard], index - if shard == 0 { 0 } else { self.ends[shard - 1] })
    }

    /// Pixels of one image as `[C, H, W]`.
    pub(crate) fn read(&self, index: usize) -> Vec<u8> {
        let (file, place) = self.place(index);
        let pixels: usize = self.shape.iter().product();
        let numbers = place * pixels..(place + 1) * pixels;
        let image = match self.range {
            None => file.bytes(numbers).to_vec(),
            Some(range) => file.numbers(numbers).map(|x| range.byte(x)).collect(),
        };
        let channels = self.shape[0];
        match self.layout {
            Layout::Interleaved if channels > 1 => planar(&image, channels),
            _ => image,
        }
    }

    /// Takes the range that was told, or that which the numbers fit.
    fn find_range(&mut self, told: Option<PixelRange>) -> Result<()> {
        let pixels: usize = self.shape.iter().product();
        let span = |index: usize| {
            let (file, place) = self.place(index);
            let numbers = file.numbers(place * pixels..(place + 1) * pixels);
            let start = (f64::INFINITY, f64::NEG_INFINITY);
            let (low, high, finite) = numbers.fold((start.0, start.1, true), |(low, high, finite), x| {
                (low.min(x), high.max(x), finite && x.is_finite())
            });
            if finite {
                return Ok((low, high));
            }
            Err(Error::file(&file.path, format!("image {place} has a number that is not finite")))
        };
        let spans: Vec<(f64, f64)> = (0..self.len()).into_par_iter().map(span).collect::<Result<_>>()?;
        let low = spans.iter().map(|s| s.0).fold(f64::INFINITY, f64::min);
        let high = spans.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
        let fits = |range: PixelRange| low >= range.lowest() - OVERSHOOT && high <= 1.0 + OVERSHOOT;
        let found = if low < -1e-3 { PixelRange::Signed } else { PixelRange::Unit };
        if told.is_none() && !fits(found) {
            let reason = format!(
                "numbers from {low:.4} to {high:.4}: floats of images lie in [0, 1] or [-1, 1]; scale them, or store bytes"
            );
            return Err(Error::file(&self.shards[0].path, reason));
        }
        let range = told.unwrap_or(found);
        let how = if told.is_some() { "as told" } else { "from their minimum" };
        self.assumed.push(format!("floats in {range}, {how} ({low:.4} to {high:.4})"));
        let outside = spans.iter().filter(|(l, h)| *l < range.lowest() - 1e-3 || *h > 1.0 + 1e-3).count();
        if outside > 0 {
            self.assumed.push(format!("{outside} images have numbers outside of it, which are cut"));
        }
        self.range = Some(range);
        Ok(())
    }
}

/// Interleaved channels to planes.
pub(crate) fn planar(image: &[u8], channels: usize) -> Vec<u8> {
    (0..channels).flat_map(|c| image.iter().skip(c).step_by(channels).copied()).collect()
}

/// `[C, H, W]`, how it is stored, and whether another reading fits as well.
fn layout(file: &ArrayFile) -> Result<([usize; 3], Layout, bool)> {
    let dims = &file.header.dims;
    let fail = |reason: String| Err(Error::file(&file.path, reason));
    if file.header.fortran && dims.len() > 1 {
        return fail("is in Fortran order: write numpy.ascontiguousarray of it".to_owned());
    }
    let channels = |n: usize| n == 1 || n == 3;
    let found = match dims[..] {
        [_, height, width] => ([1, height, width], Layout::Planar, false),
        [_, c, height, width] if channels(c) => ([c, height, width], Layout::Planar, channels(width)),
        [_, height, width, c] if channels(c) => ([c, height, width], Layout::Interleaved, false),
        _ => {
            return fail(format!(
                "shape {dims:?}: images are [N, H, W], [N, C, H, W] or [N, H, W, C], of 1 or 3 channels"
            ));
        }
    };
    if dims.contains(&0) {
        return fail(format!("shape {dims:?}: holds no pixel"));
    }
    Ok(found)
}

/// The labels that lie beside the images of every shard, or of none.
fn labels(shards: &[ArrayFile]) -> Result<Option<Vec<i64>>> {
    let (mut all, mut without) = (Vec::new(), None);
    for shard in shards {
        let fits =
            |a: &ArrayFile| a.header.dims[..] == shard.header.dims[..1] && !a.header.element.is_float();
        // What has no name is labels only if it looks like them.
        let found = match shard.beside(LABELS)? {
            Some(named) => Some(named),
            None => shard.beside(SECOND)?.filter(fits),
        };
        match found {
            Some(found) if fits(&found) => all.push(found),
            Some(found) => {
                let reason = format!(
                    "labels of shape {:?} and {:?}: whole numbers, one for each of {} images, are needed",
                    found.header.dims, found.header.element, shard.header.dims[0]
                );
                return Err(Error::file(&shard.path, reason));
            }
            None => without = Some(shard),
        }
    }
    match (all.is_empty(), without) {
        (true, _) => Ok(None),
        (false, Some(shard)) => Err(Error::file(
            &shard.path,
            "holds no labels, where other files of the set do: give all or none",
        )),
        (false, None) => Ok(Some(all.iter().flat_map(|a| a.numbers(0..a.len()).map(|x| x as i64)).collect())),
    }
}
