//! Building the binary `heldout` and handing over to it.

use crate::{process, setup};
use anyhow::{Context, Result, bail};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Becomes `heldout COMMAND ARGS..`, so that signals and the exit status are its own.
pub(crate) fn run(command: &str, args: &[String]) -> Result<()> {
    setup::ensure()?;
    let binary = build()?;
    let error = Command::new(&binary).arg(command).args(args).exec();
    Err(error).with_context(|| format!("{}", binary.display()))
}

/// Builds the binary in the profile that everything shares, and says where it is.
pub(crate) fn build() -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args([
        "build",
        "--package",
        "heldout-lab",
        "--bin",
        "heldout",
        "--message-format=json-render-diagnostics",
    ]);
    let output = cargo.stderr(Stdio::inherit()).output().context("cargo does not start")?;
    if !output.status.success() {
        bail!("heldout does not build; `cargo xtask doctor` says what may be missing");
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let executable =
        messages.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok()).find_map(|m| {
            let is_ours = m["target"]["name"] == "heldout";
            m["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
        });
    executable.context("cargo built heldout but did not say where")
}
