//! `dataset.toml`: what a data set folder says of itself.

use heldout_core::{Error, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

/// The fields of `dataset.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Short name, as in recipes.
    pub name: String,
    /// Name for people.
    pub title: String,
    /// Where it comes from.
    pub source: String,
    /// SPDX identifier.
    pub license: String,
    /// Frames of each example: more than 1 makes it a clip.
    #[serde(default = "one")]
    pub frames: usize,
    /// IDX file of the images: `[N, H, W]` or `[N, H, W, C]`; of clips, which are grey, `[N, T, H, W]`.
    pub images: String,
    /// IDX file of the labels, `[N]`.
    pub labels: Option<String>,
    /// CSV of attributes, one row an image.
    pub attributes: Option<String>,
    /// Images.
    pub count: usize,
    /// Pixels.
    pub height: usize,
    /// Pixels.
    pub width: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Names of the classes, by label.
    #[serde(default)]
    pub classes: Vec<String>,
    /// SHA-256 of each file.
    pub sha256: BTreeMap<String, String>,
}

fn one() -> usize {
    1
}

impl Manifest {
    /// Reads `dataset.toml` in `folder` and checks every file's checksum.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("dataset.toml");
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let manifest: Self = toml::from_str(&text).map_err(|e| Error::file(&path, e.message().to_owned()))?;
        for (file, expected) in &manifest.sha256 {
            let path = folder.join(file);
            let mut hash = Sha256::new();
            let mut from = File::open(&path).map_err(Error::io(&path))?;
            std::io::copy(&mut from, &mut hash).map_err(Error::io(&path))?;
            if hex(&hash.finalize()) != *expected {
                return Err(Error::file(
                    path,
                    "damaged: its SHA-256 is not that of dataset.toml; fetch it again",
                ));
            }
        }
        Ok(manifest)
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
