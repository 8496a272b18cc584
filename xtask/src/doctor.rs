//! What is there and what is missing.

use crate::datasets;
use crate::libtorch::{Source, VERSION, source, version_of};
use crate::process::output;
use anyhow::{Result, bail};

enum Finding {
    Ok(String),
    Note(String),
    Missing(String),
}
use Finding::{Missing, Note, Ok as Found};

/// Prints a line per check; an error if something needed is missing.
pub(crate) fn run() -> Result<()> {
    let checks = [
        ("Rust", toolchain("rustc", "install Rust with rustup")),
        ("cargo", toolchain("cargo", "install Rust with rustup")),
        ("cargo-nextest", nextest()),
        ("C++ compiler", compiler()),
        ("Python with pip", python()),
        ("libtorch", libtorch()),
        ("CPU", cpu()),
        ("CUDA", cuda()),
        ("data sets", data_sets()),
    ];
    let mut missing = 0;
    for (name, finding) in checks {
        let (mark, text) = match finding {
            Found(text) => ("ok     ", text),
            Note(text) => ("note   ", text),
            Missing(text) => {
                missing += 1;
                ("MISSING", text)
            }
        };
        println!("{mark}  {name:16} {text}");
    }
    if missing > 0 {
        bail!("{missing} needed things are missing; see above");
    }
    Ok(())
}

fn toolchain(program: &str, remedy: &str) -> Finding {
    output(program, &["--version"]).map_or_else(|| Missing(remedy.to_owned()), Found)
}

fn nextest() -> Finding {
    let version = output("cargo", &["nextest", "--version"]);
    let first = version.and_then(|v| v.lines().next().map(str::to_owned));
    first.map_or_else(|| Note("not there; `cargo xtask test` installs it".to_owned()), Found)
}

fn compiler() -> Finding {
    let found = ["c++", "g++", "clang++"].into_iter().find_map(|c| output(c, &["--version"]));
    let first = found.and_then(|v| v.lines().next().map(str::to_owned));
    first.map_or_else(|| Missing("install g++ or clang++".to_owned()), Found)
}

fn python() -> Finding {
    match output("python3", &["-m", "pip", "--version"]) {
        Some(v) => Found(v.split(" from ").next().unwrap_or(&v).to_owned()),
        None => Note("not there; only `setup` and `ci` need it".to_owned()),
    }
}

fn libtorch() -> Finding {
    match source() {
        Source::Python => Found("your own PyTorch, by LIBTORCH_USE_PYTORCH".to_owned()),
        Source::Missing => Missing(format!("version {VERSION}: run `cargo xtask setup`")),
        Source::Own(folder) | Source::Linked(folder) => match version_of(&folder) {
            Some(v) if v.split('+').next() == Some(VERSION) => Found(format!("{v}, {}", folder.display())),
            Some(v) => Missing(format!("{} is {v}, needed is {VERSION}", folder.display())),
            None => Note(format!("{}, which does not say its version", folder.display())),
        },
    }
}

fn cpu() -> Finding {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    #[cfg(target_arch = "x86_64")]
    let features = [
        ("AVX2", std::is_x86_feature_detected!("avx2")),
        ("FMA", std::is_x86_feature_detected!("fma")),
        ("AVX-512F", std::is_x86_feature_detected!("avx512f")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let features = [("", false); 0];
    let named: Vec<&str> = features.iter().filter(|(_, there)| *there).map(|(n, _)| *n).collect();
    Found(format!("{cores} cores; {}", named.join(", ")))
}

fn cuda() -> Finding {
    match output("nvidia-smi", &["--query-gpu=name,driver_version", "--format=csv,noheader"]) {
        Some(gpus) => Found(gpus.replace('\n', "; ")),
        None => Note("no NVIDIA driver; the CPU is used".to_owned()),
    }
}

fn data_sets() -> Finding {
    match datasets::shipped() {
        Ok(sets) if sets.is_empty() => Missing("datasets/ is empty: clone again".to_owned()),
        Ok(sets) => Found(sets.into_iter().map(|s| s.name).collect::<Vec<_>>().join(", ")),
        Err(e) => Missing(format!("{e:#}")),
    }
}
