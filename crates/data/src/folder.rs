//! Folders of PNG and JPEG files.

use heldout_core::{Error, Result};
use image::{ColorType, DynamicImage, ImageReader, Limits};
use rayon::prelude::*;
use std::fs;
use std::path::{Path, PathBuf};

/// The image files of a folder, with their classes where they lie in subfolders. Pixels stay on disk.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) paths: Vec<PathBuf>,
    pub(crate) labels: Option<Vec<i64>>,
    pub(crate) classes: Vec<String>,
    /// `[channels, height, width]` of every image.
    pub(crate) shape: [usize; 3],
}

/// Sides above this are not decoded: a small file can claim a huge image.
const LARGEST_SIDE: u32 = 16_384;

impl Folder {
    /// Lists the files, sorted by name, and looks at every header.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let (files, folders) = entries(folder)?;
        let fail = |reason: &str| Err(Error::file(folder, reason));
        let (paths, labels, classes) = match (files.is_empty(), folders.is_empty()) {
            (true, true) => {
                return fail("holds no PNG or JPEG file: put images there, or one subfolder per class");
            }
            (false, false) => {
                return fail("holds both images and subfolders: keep one layout, all in classes or none");
            }
            (false, true) => (files, None, Vec::new()),
            (true, false) => {
                let (mut paths, mut labels, mut classes) = (Vec::new(), Vec::new(), Vec::new());
                for class in folders {
                    let (files, _) = entries(&class)?;
                    labels.extend(std::iter::repeat_n(classes.len() as i64, files.len()));
                    classes.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
                    paths.extend(files);
                }
                (paths, Some(labels), classes)
            }
        };
        if paths.is_empty() {
            return fail("its subfolders hold no PNG or JPEG file");
        }
        let heads: Vec<([usize; 2], bool)> = paths.par_iter().map(|p| head(p)).collect::<Result<_>>()?;
        let [height, width] = heads[0].0;
        if let Some(i) = heads.iter().position(|h| h.0 != [height, width]) {
            let [h, w] = heads[i].0;
            let reason = format!(
                "{w}x{h} pixels where {} has {width}x{height}: make all one size",
                paths[0].display()
            );
            return Err(Error::file(&paths[i], reason));
        }
        let channels = if heads.iter().all(|(_, grey)| *grey) { 1 } else { 3 };
        Ok(Self { paths, labels, classes, shape: [channels, height, width] })
    }

    /// Pixels of one image as `[C, H, W]`.
    pub(crate) fn read(&self, index: usize) -> Result<Vec<u8>> {
        let path = &self.paths[index];
        let image =
            reader(path)?.decode().map_err(|e| Error::file(path, format!("damaged or truncated: {e}")))?;
        let [channels, height, width] = self.shape;
        if [image.height() as usize, image.width() as usize] != [height, width] {
            return Err(Error::file(
                path,
                format!("{}x{} pixels now: it changed", image.width(), image.height()),
            ));
        }
        planar(path, &image, channels)
    }
}

fn planar(path: &Path, image: &DynamicImage, channels: usize) -> Result<Vec<u8>> {
    if image.color().has_alpha() {
        let rgba = image.to_rgba8();
        if rgba.pixels().any(|p| p.0[3] != 255) {
            return Err(Error::file(path, "is partly transparent: put it on a background first"));
        }
    }
    if channels == 1 {
        return Ok(image.to_luma8().into_raw());
    }
    let rgb = image.to_rgb8();
    Ok((0..3).flat_map(|c| rgb.pixels().map(move |p| p.0[c])).collect())
}

fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<fs::File>>> {
    let mut reader =
        ImageReader::open(path).map_err(Error::io(path))?.with_guessed_format().map_err(Error::io(path))?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LARGEST_SIDE), Some(LARGEST_SIDE));
    reader.limits(limits);
    Ok(reader)
}

/// `[height, width]`, and whether it is grey, from the file's header.
fn head(path: &Path) -> Result<([usize; 2], bool)> {
    use image::ImageDecoder;
    let damaged =
        |e: image::ImageError| Error::file(path, format!("damaged, truncated or not an image: {e}"));
    let decoder = reader(path)?.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    let color = decoder.color_type();
    if matches!(color, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16) {
        return Err(Error::file(path, "has 16 bits a channel: convert it to 8"));
    }
    Ok(([height as usize, width as usize], matches!(color, ColorType::L8 | ColorType::La8)))
}

/// Image files and subfolders, each sorted by name; hidden ones and other files are passed over.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let read = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut all: Vec<PathBuf> =
        read.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(Error::io(folder))?;
    all.retain(|p| !p.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
    all.sort();
    let (folders, files): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| p.is_dir());
    let is_image = |p: &PathBuf| {
        let extension = p.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        ["png", "jpg", "jpeg"].contains(&extension.as_str())
    };
    Ok((files.into_iter().filter(is_image).collect(), folders))
}
