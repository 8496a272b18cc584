//! Where recipes and data sets lie.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The clone: the nearest folder upwards of the current one that holds `recipes` and `datasets`, or else the one that
/// this program was built from.
pub fn project_root() -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    let is_root = |p: &&Path| p.join("recipes").is_dir() && p.join("datasets").is_dir();
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    here.ancestors().find(is_root).map_or(built_from, Path::to_owned)
}

/// Names and paths of the recipes that ship, sorted.
pub fn recipes() -> Vec<(String, PathBuf)> {
    toml_files(&project_root().join("recipes"))
}

fn toml_files(folder: &Path) -> Vec<(String, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let toml = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "toml"));
    let named = toml.filter_map(|p| Some((p.file_stem()?.to_string_lossy().into_owned(), p.clone())));
    let mut found: Vec<_> = named.collect();
    found.sort();
    found
}

/// Names and paths of the fragments that ship, one for every technique, sorted.
pub fn fragments() -> Vec<(String, PathBuf)> {
    toml_files(&project_root().join("recipes/with"))
}

/// A fragment by name or by path.
pub fn find_fragment(name: &str) -> Result<PathBuf> {
    find("technique", name, fragments())
}

/// A recipe by name or by path.
pub fn find_recipe(name: &str) -> Result<PathBuf> {
    find("recipe", name, recipes())
}

/// A recipe of an autoencoder by name or by path.
pub fn find_autoencoder(name: &str) -> Result<PathBuf> {
    find("autoencoder", name, toml_files(&project_root().join("recipes/autoencoders")))
}

fn find(what: &str, name: &str, known: Vec<(String, PathBuf)>) -> Result<PathBuf> {
    if let Some((_, path)) = known.iter().find(|(n, _)| n == name) {
        return Ok(path.clone());
    }
    if Path::new(name).is_file() {
        return Ok(PathBuf::from(name));
    }
    let names: Vec<_> = known.into_iter().map(|(n, _)| n).collect();
    bail!("no {what} or file `{name}`: known are {}; a path to a TOML file works too", names.join(", "))
}
