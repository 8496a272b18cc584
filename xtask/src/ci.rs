//! All checks, cheapest first: the same for a person and for the machine.

use crate::{libtorch, process, setup, test, tidy, tools};
use anyhow::{Context, Result};
use std::time::Instant;

type Step = (&'static str, fn() -> Result<()>);

const STEPS: [Step; 11] = [
    ("fmt", || process::run(process::cargo().args(["fmt", "--all", "--check"]))),
    ("typos", || tool("typos", &[])),
    ("tidy", tidy::run),
    ("setup", setup::ensure),
    ("clippy", || {
        process::run(process::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    }),
    ("doc", || {
        process::run(
            process::cargo()
                .args(["doc", "--workspace", "--no-deps", "--quiet"])
                .env("RUSTDOCFLAGS", "-D warnings"),
        )
    }),
    ("machete", || tool("cargo-machete", &[])),
    ("deny", || tool("cargo-deny", &["check", "licenses", "bans", "sources"])),
    ("outside", outside),
    ("peer", peer),
    // Last, so that its count closes the log.
    ("test", || test::test(&[])),
];

fn tool(name: &str, args: &[&str]) -> Result<()> {
    tools::ensure(name)?;
    let mut command = std::process::Command::new(name);
    process::run(command.args(args).current_dir(crate::root::root()).env("PATH", tools::path()?))
}

/// Random models of diffusers beside the binary, where Python has diffusers; exit status 77 says that it has not.
fn peer() -> Result<()> {
    process::run(process::cargo().args(["build", "--quiet", "--package", "heldout-lab"]))?;
    let root = crate::root::root();
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let python = std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into());
    let mut check = std::process::Command::new(python);
    check.arg(root.join("crates/lab/tests/check_diffusers.py")).arg(target.join("debug/heldout"));
    match check.args(["--rounds", "4"]).status()?.code() {
        Some(0 | 77) => Ok(()),
        other => anyhow::bail!("check_diffusers.py ended with {other:?}"),
    }
}

/// A crate outside the workspace, given nothing but LIBTORCH.
fn outside() -> Result<()> {
    let root = crate::root::root();
    let manifest = root.join("examples/outside/Cargo.toml");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
    let libtorch = libtorch::lib_folder().and_then(|lib| lib.parent().map(std::path::Path::to_owned));
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--manifest-path"]).arg(manifest).arg("--target-dir").arg(target);
    process::run(cargo.envs(libtorch.map(|l| ("LIBTORCH", l))))
}

/// Runs every step and stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let all = Instant::now();
    for (name, step) in STEPS {
        eprintln!("ci: {name}");
        let started = Instant::now();
        step().with_context(|| format!("ci step {name}"))?;
        eprintln!("ci: {name} ok, {:.0} s", started.elapsed().as_secs_f64());
    }
    eprintln!("ci: all ok, {:.0} s", all.elapsed().as_secs_f64());
    Ok(())
}
