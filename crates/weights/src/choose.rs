//! Which files of a model folder hold its weights: the same rule for a folder on disk and for a listing of the hub.

use crate::pickle;
use std::path::Path;

/// First parts of the names of weight files, as diffusers and transformers write them.
const STEMS: [&str; 2] = ["diffusion_pytorch_model", "model"];
pub(crate) const CONFIG: &str = "config.json";
pub(crate) const PIPELINE: &str = "model_index.json";

/// What a folder holds, by name.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Its files.
    pub(crate) files: Vec<String>,
    /// Its subfolders that have a `config.json`.
    pub(crate) models: Vec<String>,
}

/// The weights of a folder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// One safetensors file.
    Single(String),
    /// The index of several.
    Index(String),
}

impl Listing {
    /// The weights of this variant, a single file before an index; where there are none, why and what to do.
    /// `folder` is where a command of the remedy finds the files.
    pub(crate) fn choose(&self, folder: &Path, variant: Option<&str>) -> Result<Chosen, String> {
        if self.is_pipeline() {
            return Err(self.explain_pipeline());
        }
        for stem in STEMS {
            let dotted = variant.map(|v| format!(".{v}")).unwrap_or_default();
            let single = format!("{stem}{dotted}.safetensors");
            if self.has(&single) {
                return Ok(Chosen::Single(single));
            }
            let index = format!("{stem}.safetensors.index{dotted}.json");
            if self.has(&index) {
                return Ok(Chosen::Index(index));
            }
        }
        Err(self.explain(folder, variant))
    }

    /// Whether it is the folder of a pipeline, not of a model.
    pub(crate) fn is_pipeline(&self) -> bool {
        self.has(PIPELINE) && !self.has(CONFIG)
    }

    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|f| f == name)
    }

    fn explain_pipeline(&self) -> String {
        let models = if self.models.is_empty() { "none here".to_owned() } else { self.models.join(", ") };
        format!(
            "is a pipeline ({PIPELINE}), not a model: give one of its subfolders that hold models: {models}"
        )
    }

    fn explain(&self, folder: &Path, variant: Option<&str>) -> String {
        let mut others: Vec<&String> = self.files.iter().filter(|f| f.ends_with(".safetensors")).collect();
        others.sort();
        if let Some(other) = others.first() {
            let asked = variant.map_or_else(String::new, |v| format!(" of variant `{v}`"));
            let count =
                if others.len() > 1 { format!(" and {} more", others.len() - 1) } else { String::new() };
            return format!(
                "holds no {}.safetensors{asked} but {other}{count}: set the variant to the middle part of that name, or give the file itself",
                STEMS[0]
            );
        }
        let mut pickles: Vec<&String> =
            self.files.iter().filter(|f| pickle::is_pickle(Path::new(f))).collect();
        pickles.sort();
        if let Some(pickled) = pickles.first() {
            let to = folder.join(format!("{}.safetensors", STEMS[0]));
            return pickle::remedy(&folder.join(pickled), &to);
        }
        format!(
            "holds no {}.safetensors, shards with an index, or model.safetensors: give a folder that does",
            STEMS[0]
        )
    }
}
