//! Compiles the C++ shim against the headers of the libtorch that tch links, and the kernels once for each
//! instruction set.

use std::env;
use std::path::{Path, PathBuf};

#[path = "../rpath.rs"]
mod rpath;

/// Instruction sets of x86-64 for which the kernels are compiled besides the baseline; the processor picks one at run
/// time. The flags of gcc and clang.
const CLONES: [(&str, &[&str]); 2] = [
    ("avx2", &["-mavx2", "-mfma"]),
    (
        "avx512",
        &["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    ),
];

fn main() {
    rpath::main();
    println!("cargo::rerun-if-changed=cpp");
    // Without libtorch (tch's feature `doc-only`) there is nothing to compile against.
    let Ok(lib) = env::var("DEP_HELDOUT_CORE_LIBTORCH_LIB") else { return };
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    let root = env::var("LIBTORCH_INCLUDE").map(PathBuf::from);
    let root = root.unwrap_or_else(|_| Path::new(&lib).parent().unwrap_or(Path::new("/")).to_owned());
    let target = |what: &str| env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    let x86 = target("ARCH") == "x86_64";

    let mut shim = build();
    for folder in ["include", "include/torch/csrc/api/include"] {
        shim.flag(format!("-isystem{}", root.join(folder).display()));
    }
    let abi = env::var("LIBTORCH_CXX11_ABI").unwrap_or_else(|_| "1".to_owned());
    shim.define("_GLIBCXX_USE_CXX11_ABI", &*abi);
    if target("OS") == "linux" {
        shim.flag("-fopenmp"); // at::parallel_for is a header of OpenMP pragmas
    }
    if x86 {
        shim.define("HELDOUT_X86", None);
    }
    shim.file("cpp/all.cpp");
    shim.compile("heldout_torch_ext");

    let clones: &[(&str, &[&str])] = if x86 { &CLONES } else { &[] };
    for (name, flags) in [("base", &[][..])].iter().chain(clones) {
        let mut kernels = build();
        kernels.define("CLONE", *name).flag("-O3").flag("-ffp-contract=fast").flag("-fno-math-errno");
        kernels.flag("-fno-trapping-math");
        flags.iter().for_each(|f| {
            kernels.flag(f);
        });
        kernels.file("cpp/kernels.cpp").compile(&format!("heldout_torch_ext_{name}"));
    }
}

/// C++20, warnings on, optimised in every profile: the kernels are what the crate is for.
fn build() -> cc::Build {
    let mut build = cc::Build::new();
    build.cpp(true).std("c++20").pic(true).opt_level(2).debug(false);
    // gcc's note on how wide vectors are passed concerns functions that are all inlined.
    build.flag_if_supported("-Wno-psabi");
    build
}
