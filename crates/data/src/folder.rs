//! Folders of PNG and JPEG files of one shape, as training needs them.

use crate::decode::{Head, decode, head, is_image, opaque};
use heldout_core::{Error, Result};
use image::DynamicImage;
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
        let heads: Vec<Head> = paths.par_iter().map(|p| shallow(p)).collect::<Result<_>>()?;
        let [height, width] = heads[0].size;
        if let Some(i) = heads.iter().position(|h| h.size != [height, width]) {
            let [h, w] = heads[i].size;
            let reason = format!(
                "{w}x{h} pixels where {} has {width}x{height}: make all one size",
                paths[0].display()
            );
            return Err(Error::file(&paths[i], reason));
        }
        let channels = if heads.iter().all(|h| h.grey) { 1 } else { 3 };
        Ok(Self { paths, labels, classes, shape: [channels, height, width] })
    }

    /// Pixels of one image as `[C, H, W]`.
    pub(crate) fn read(&self, index: usize) -> Result<Vec<u8>> {
        let path = &self.paths[index];
        let image = decode(path)?;
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
    if image.color().has_alpha() && image.to_rgba8().pixels().any(|p| p.0[3] != 255) {
        return Err(Error::file(path, "is partly transparent: put it on a background first"));
    }
    Ok(opaque(image, channels))
}

/// The header of an image of 8 bits: more would be lost without a word.
fn shallow(path: &Path) -> Result<Head> {
    let head = head(path)?;
    if head.deep {
        return Err(Error::file(path, "has 16 bits a channel: convert it to 8"));
    }
    Ok(head)
}

/// Whether a folder has image files, of its own or in its subfolders.
pub(crate) fn holds_images(folder: &Path) -> Result<bool> {
    let (files, folders) = entries(folder)?;
    Ok(!files.is_empty() || folders.iter().any(|f| entries(f).is_ok_and(|(files, _)| !files.is_empty())))
}

/// Image files and subfolders, each sorted by name; hidden ones and other files are passed over.
fn entries(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let read = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut all: Vec<PathBuf> =
        read.map(|e| e.map(|e| e.path())).collect::<std::io::Result<_>>().map_err(Error::io(folder))?;
    all.retain(|p| !p.file_name().unwrap_or_default().to_string_lossy().starts_with('.'));
    all.sort();
    let (folders, files): (Vec<_>, Vec<_>) = all.into_iter().partition(|p| p.is_dir());
    Ok((files.into_iter().filter(|p| is_image(p)).collect(), folders))
}
