//! Folders of whole pipelines, as diffusers writes them: `model_index.json` and a folder for each part.

use crate::choose::PIPELINE;
use crate::save::{replace_folder, write_json};
use heldout_core::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// `model_index.json`: what a pipeline is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineIndex {
    /// Its class in diffusers, as `StableDiffusionPipeline`.
    pub class: String,
    /// Its parts by name, each a folder beside the file.
    pub parts: BTreeMap<String, Part>,
    /// What else the file says, as `id2label`.
    pub fields: Map<String, Value>,
}

/// A part of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// The Python package of its class, as `diffusers`.
    pub library: String,
    /// Its class, as `UNet2DConditionModel`.
    pub class: String,
}

impl Part {
    /// A part of this library and class.
    pub fn new(library: &str, class: &str) -> Self {
        Self { library: library.to_owned(), class: class.to_owned() }
    }
}

/// Whether a folder holds a pipeline rather than a model.
pub fn is_pipeline(folder: &Path) -> bool {
    folder.join(PIPELINE).is_file()
}

impl PipelineIndex {
    /// Of a folder with a `model_index.json`.
    ///
    /// # Errors
    /// The file is not there or is no index: named, with the field.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(PIPELINE);
        let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
        let mut fields: Map<String, Value> =
            serde_json::from_str(&text).map_err(|e| Error::file(&path, e.to_string()))?;
        let Some(Value::String(class)) = fields.remove("_class_name") else {
            return Err(Error::file(&path, "_class_name: no pipeline without it"));
        };
        let mut parts = BTreeMap::new();
        fields.retain(|name, value| {
            let pair = value.as_array().map(Vec::as_slice);
            match pair {
                Some([Value::String(library), Value::String(class)]) => {
                    parts.insert(name.clone(), Part::new(library, class));
                    false
                }
                // A part that the pipeline could have and has not.
                Some([Value::Null, Value::Null]) => false,
                _ => !name.starts_with('_'),
            }
        });
        Ok(Self { class, parts, fields })
    }

    /// The folder of a part, if it has one of these classes.
    ///
    /// # Errors
    /// It has no such part, another class, or the folder is missing: the message names the folder and what is covered.
    pub fn part(&self, folder: &Path, name: &str, classes: &[&str]) -> Result<PathBuf> {
        let file = folder.join(PIPELINE);
        let Some(part) = self.parts.get(name) else {
            return Err(Error::file(file, format!("{name}: a {} needs this part", self.class)));
        };
        if !classes.contains(&part.class.as_str()) {
            let reason = format!("{name}: {} is not covered: only {} are", part.class, classes.join(", "));
            return Err(Error::file(file, reason));
        }
        let path = folder.join(name);
        if !path.is_dir() {
            return Err(Error::file(
                path,
                format!("is missing: {PIPELINE} names it; fetch the whole folder"),
            ));
        }
        Ok(path)
    }

    /// Writes the pipeline: `write` puts the parts into the folder that it is given, and the index follows. Whole or not
    /// there; an earlier pipeline in its place is replaced.
    ///
    /// # Errors
    /// A folder that holds anything but a pipeline, and whatever `write` and the file system say; the folder is then as it
    /// was.
    pub fn save(&self, folder: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let is_part = |name: &str, is_folder: bool| {
            if is_folder { self.parts.contains_key(name) } else { name == PIPELINE }
        };
        let index = json!({ "_class_name": self.class, "_diffusers_version": "0.42.1" });
        let Value::Object(mut index) = index else { unreachable!("an object is one") };
        index.extend(self.parts.iter().map(|(name, part)| (name.clone(), json!([part.library, part.class]))));
        index.extend(self.fields.clone());
        replace_folder(folder, is_part, |aside| {
            write(aside)?;
            write_json(&aside.join(PIPELINE), &index)
        })
    }
}
