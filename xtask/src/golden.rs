//! Golden files.

use crate::process;
use crate::root::root;
use anyhow::{Result, bail};
use std::process::Command;

/// Runs `crates/NAME/tests/golden/make.py`.
pub(crate) fn run(name: &str, python: &str) -> Result<()> {
    let script = root().join("crates").join(name).join("tests/golden/make.py");
    if !script.is_file() {
        bail!("{}: not there; crates with golden files have this script", script.display());
    }
    process::run(Command::new(python).arg(script))
}
