//! Every file below a folder, in an order that is the same everywhere.

use crate::decode::is_image;
use heldout_core::{Error, Result};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Endings of images that are not decoded here.
const OTHER_IMAGES: [&str; 12] =
    ["webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "jxl", "jp2", "ppm", "pgm", "tga"];

/// What lies below a folder.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// PNG and JPEG files by their names, sorted by the parts of their paths.
    pub(crate) images: Vec<PathBuf>,
    /// What should be an image and cannot be read, and why.
    pub(crate) unreadable: Vec<(PathBuf, String)>,
    /// Files that are no images, hidden ones, and links to folders that are gone through already.
    pub(crate) ignored: usize,
}

/// Lists the files below `folder` through all subfolders and links. Every folder is entered once, so that links in circles
/// end.
pub(crate) fn walk(folder: &Path) -> Result<Walk> {
    std::fs::read_dir(folder).map_err(Error::io(folder))?;
    let (mut found, mut entered) = (Walk::default(), HashSet::new());
    let mut left = 0;
    let entries = WalkDir::new(folder).follow_links(true).sort_by_file_name().into_iter();
    let entries = entries.filter_entry(|e| {
        let hidden = e.depth() > 0 && e.file_name().to_string_lossy().starts_with('.');
        let enter = !e.file_type().is_dir() || e.path().canonicalize().is_ok_and(|real| entered.insert(real));
        left += usize::from(hidden || !enter);
        !hidden && enter
    });
    for entry in entries {
        match entry {
            Ok(entry) if entry.file_type().is_dir() => {}
            Ok(entry) => found.sort_in(entry.into_path()),
            Err(e) if e.loop_ancestor().is_some() => found.ignored += 1,
            Err(e) => {
                let path = e.path().unwrap_or(folder).to_owned();
                let reason = e.io_error().map_or_else(|| e.to_string(), ToString::to_string);
                found.unreadable.push((path, reason));
            }
        }
    }
    found.ignored += left;
    Ok(found)
}

impl Walk {
    fn sort_in(&mut self, path: PathBuf) {
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        if is_image(&path) {
            self.images.push(path);
        } else if OTHER_IMAGES.contains(&ending.as_str()) {
            self.unreadable.push((path, format!("is a .{ending} file: PNG and JPEG are read; convert it")));
        } else {
            self.ignored += 1;
        }
    }
}
