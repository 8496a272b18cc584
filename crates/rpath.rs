//! The build script of every crate that links libtorch: binaries, tests and benches find the library that they
//! were built against without any environment variable. `heldout-core` learns the folder from `torch-sys` and
//! hands it on, so that a crate outside this workspace needs the same few lines and no dependency but ours.
pub(crate) fn main() {
    let lib =
        std::env::var("DEP_TCH_LIBTORCH_LIB").or_else(|_| std::env::var("DEP_HELDOUT_CORE_LIBTORCH_LIB"));
    let Ok(lib) = lib else { return };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    // Nothing refers to it by name, so that the linker would leave it out, and libtorch would find no CUDA.
    let cuda = std::path::Path::new(&lib).join("libtorch_cuda.so");
    if cuda.is_file() {
        println!("cargo::rustc-link-arg=-Wl,--no-as-needed,{},--as-needed", cuda.display());
    }
    if std::env::var("CARGO_PKG_NAME").is_ok_and(|name| name == "heldout-core") {
        println!("cargo::metadata=LIBTORCH_LIB={lib}");
    }
}
