//! Tests and benches.

use crate::{libtorch, networks, process, setup, tools};
use anyhow::Result;
use std::env;

/// nextest runs a process per test, since libtorch's random generator is one per process; then the docs' examples.
pub(crate) fn test(args: &[String]) -> Result<()> {
    setup::ensure()?;
    networks::ensure();
    tools::ensure("cargo-nextest")?;
    let mut nextest = process::cargo();
    nextest.args(["nextest", "run", "--workspace", "--no-fail-fast"]).args(args).env("PATH", tools::path()?);
    // A process for each core runs already: threads of libtorch would wait for each other.
    nextest.env("OMP_NUM_THREADS", "1");
    process::run(&mut nextest)?;
    if args.is_empty() {
        let mut doc = process::cargo();
        // Examples in docs are linked by rustdoc, which takes no rpath from build scripts.
        let variable = if cfg!(target_os = "macos") { "DYLD_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };
        let old = env::var_os(variable).map(|v| env::split_paths(&v).collect::<Vec<_>>()).unwrap_or_default();
        doc.env(variable, env::join_paths(libtorch::lib_folder().into_iter().chain(old))?);
        process::run(doc.args(["test", "--doc", "--workspace", "--quiet"]))?;
    }
    Ok(())
}

/// Every bench, in the profile that everything shares.
pub(crate) fn bench(args: &[String]) -> Result<()> {
    setup::ensure()?;
    process::run(process::cargo().args(["bench", "--workspace", "--profile", "dev"]).args(args))
}
