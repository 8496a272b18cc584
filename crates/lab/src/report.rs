//! The report.
use anyhow::Result;
use std::path::{Path, PathBuf};
/// Writes it.
pub fn write(run: &Path) -> Result<PathBuf> {
    Ok(run.join("report.html"))
}
