//! Golden files.

use crate::process;
use crate::root::root;
use anyhow::{Result, bail};
use std::process::Command;

/// Runs every `crates/NAME/tests/golden/make*.py`.
pub(crate) fn run(name: &str, python: &str) -> Result<()> {
    let folder = root().join("crates").join(name).join("tests/golden");
    let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
    let is_script = |p: &std::path::PathBuf| {
        p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with("make") && n.ends_with(".py"))
    };
    let mut scripts: Vec<_> = entries.map(|e| e.path()).filter(is_script).collect();
    scripts.sort();
    if scripts.is_empty() {
        bail!("{}: holds no make*.py; crates with golden files have such scripts", folder.display());
    }
    scripts.iter().try_for_each(|script| process::run(Command::new(python).arg(script)))
}
