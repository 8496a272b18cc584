//! Golden files: what a named peer computed, as safetensors beside the script that made them.

use std::collections::HashMap;
use std::path::Path;
use tch::Tensor;

/// The tensors of one golden file.
#[derive(Debug)]
pub struct Golden(HashMap<String, Tensor>);

impl Golden {
    /// Reads `tests/golden/<name>.safetensors` of the crate whose `CARGO_MANIFEST_DIR` is given.
    ///
    /// # Panics
    /// If the file is not there: run the script `make.py` beside it.
    #[track_caller]
    pub fn open(manifest_dir: &str, name: &str) -> Self {
        let path = Path::new(manifest_dir).join("tests/golden").join(format!("{name}.safetensors"));
        let tensors = Tensor::read_safetensors(&path);
        Self(tensors.unwrap_or_else(|e| panic!("{}: {e}", path.display())).into_iter().collect())
    }

    /// One tensor.
    ///
    /// # Panics
    /// If there is none of this name.
    #[track_caller]
    pub fn get(&self, name: &str) -> Tensor {
        self.0.get(name).unwrap_or_else(|| panic!("no tensor {name}")).shallow_clone()
    }

    /// All tensors whose names start with `prefix`, without it.
    pub fn section(&self, prefix: &str) -> Vec<(String, Tensor)> {
        let of =
            |(k, v): (&String, &Tensor)| k.strip_prefix(prefix).map(|k| (k.to_owned(), v.shallow_clone()));
        let mut found: Vec<_> = self.0.iter().filter_map(of).collect();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found
    }
}
