//! Checkers that are not part of the toolchain: installed once into the cache, at pinned versions.

use crate::process;
use crate::root::cache;
use anyhow::{Context, Result, bail};
use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

/// Name, version, and whether PyPI carries it as a binary, which saves minutes of building.
const TOOLS: [(&str, &str, bool); 4] = [
    ("typos", "1.52.0", true),
    ("cargo-nextest", "0.9.143", false),
    ("cargo-deny", "0.20.2", false),
    ("cargo-machete", "0.9.2", false),
];

fn folder() -> Result<PathBuf> {
    Ok(cache()?.join("tools"))
}

/// `PATH` with the project's own tools last: what a person has installed is used first.
pub(crate) fn path() -> Result<OsString> {
    let old = env::var_os("PATH").unwrap_or_default();
    Ok(env::join_paths(env::split_paths(&old).chain([folder()?.join("bin")]))?)
}

fn is_there(name: &str) -> Result<bool> {
    Ok(env::split_paths(&path()?).any(|p| p.join(name).is_file()))
}

/// Installs a tool unless it is there.
pub(crate) fn ensure(name: &str) -> Result<()> {
    let Some((_, version, wheel)) = TOOLS.iter().find(|(n, ..)| *n == name) else { bail!("no tool {name}") };
    if is_there(name)? {
        return Ok(());
    }
    eprintln!("installing {name} {version} into {}", folder()?.display());
    if *wheel {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--upgrade", "--target"])
            .arg(folder()?)
            .arg(format!("{name}=={version}"));
        process::run(&mut pip)
            .with_context(|| format!("{name} could not be installed; install it by hand"))?;
    } else {
        let mut cargo = process::cargo();
        cargo
            .args(["install", "--quiet", "--locked", "--version", &format!("={version}"), name, "--root"])
            .arg(folder()?);
        process::run(&mut cargo)
            .with_context(|| format!("{name} could not be installed; install it by hand"))?;
    }
    if !is_there(name)? {
        bail!("{name} was installed but is not in {}", folder()?.join("bin").display());
    }
    Ok(())
}
