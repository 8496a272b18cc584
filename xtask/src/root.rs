//! Where things lie.

use anyhow::{Context, Result};
use std::env;
use std::path::{Path, PathBuf};

/// The clone.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let built_from = || PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let xtask = manifest.filter(|p| p.ends_with("xtask")).unwrap_or_else(built_from);
    xtask.parent().map_or_else(|| PathBuf::from("."), Path::to_owned)
}

/// The project's folder in the user's cache: `HELDOUT_CACHE`, or `heldout` in `XDG_CACHE_HOME` or `~/.cache`.
pub(crate) fn cache() -> Result<PathBuf> {
    let set = |name| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let base = || set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|home| home.join(".cache")));
    let found = set("HELDOUT_CACHE").or_else(|| base().map(|b| b.join("heldout")));
    found.context("no cache folder: set HOME, XDG_CACHE_HOME or HELDOUT_CACHE")
}
