//! Which files of a pipeline are wanted.

use crate::choose::{CONFIG, Listing};
use crate::{PipelineIndex, WeightFiles};
use std::fs;
use std::path::Path;

/// Which parts of a pipeline are fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts<'a> {
    /// Names of parts, as `unet`; those of them that a pipeline has.
    pub names: &'a [&'a str],
    /// Whether weights are wanted beside the configurations.
    pub weights: bool,
}

impl Parts<'_> {
    /// Whether the folder of a pipeline has all of them.
    pub(super) fn are_in(&self, folder: &Path, variant: Option<&str>) -> bool {
        let Ok(index) = PipelineIndex::read(folder) else { return false };
        let whole = |name: &&str| {
            let part = folder.join(name);
            if part.join(CONFIG).is_file() {
                !self.weights || WeightFiles::open(&part, variant).is_ok()
            } else {
                fs::read_dir(&part).is_ok_and(|mut files| files.next().is_some())
            }
        };
        self.names.iter().filter(|name| index.parts.contains_key(**name)).all(whole)
    }
}

/// The small files of a part: the configuration of a model; everything that a tokenizer or a scheduler consists of.
pub(super) fn texts(part: &Listing) -> Vec<String> {
    let is_model = part.files.iter().any(|file| file == CONFIG);
    let is_text = |file: &&String| {
        if is_model { *file == CONFIG } else { file.ends_with(".json") || file.ends_with(".txt") }
    };
    part.files.iter().filter(is_text).cloned().collect()
}
