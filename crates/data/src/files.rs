//! Where data sets lie: shipped with the project, fetched into the cache, or anywhere by path.

use crate::array::split_name;
use heldout_core::{Error, Result};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Names of the data sets in `root`: its subfolders with a `dataset.toml`, sorted.
pub fn shipped(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
    let named = entries.filter(|p| p.join("dataset.toml").is_file());
    let mut names: Vec<String> =
        named.filter_map(|p| p.file_name().map(|n| n.to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

/// Heldout's folder in the user's cache: `HELDOUT_CACHE`, or `heldout` in `XDG_CACHE_HOME` or `~/.cache`.
pub fn cache_folder() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    set("HELDOUT_CACHE").or_else(|| base().map(|b| b.join("heldout")))
}

/// The path of a data set: one of `root` by name, one that was fetched by name, or a path as it is.
pub fn find(name: &str, root: &Path) -> Result<PathBuf> {
    let fetched = cache_folder().map(|c| c.join("datasets"));
    let by_name = [Some(root.to_owned()), fetched.clone()].into_iter().flatten().map(|r| r.join(name));
    let plain = !name.contains(['/', '\\']) && !name.starts_with('.');
    let found = plain.then(|| by_name.into_iter().find(|p| p.join("dataset.toml").is_file())).flatten();
    if let Some(found) = found {
        return Ok(found);
    }
    let path = PathBuf::from(name);
    if split_name(&path).0.exists() {
        return Ok(path);
    }
    let mut known = shipped(root);
    known.extend(fetched.iter().flat_map(|f| shipped(f)));
    let reason = format!(
        "no data set or path `{name}`; known are {}; `cargo xtask datasets` lists those that `cargo xtask datasets fetch NAME` brings",
        known.join(", ")
    );
    Err(Error::config("data.name", reason))
}
