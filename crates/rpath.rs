//! The build script of every crate that links libtorch: binaries, tests and benches find the library that they
//! were built against without any environment variable. `heldout-core` learns the folder from `torch-sys` and
//! hands it on, so that a crate outside this workspace needs the same few lines and no dependency but ours.
pub(crate) fn main() {
    let lib =
        std::env::var("DEP_TCH_LIBTORCH_LIB").or_else(|_| std::env::var("DEP_HELDOUT_CORE_LIBTORCH_LIB"));
    let Ok(lib) = lib else { return };
    println!("cargo::rustc-link-arg=-Wl,-rpath,{lib}");
    if std::env::var("CARGO_PKG_NAME").is_ok_and(|name| name == "heldout-core") {
        println!("cargo::metadata=LIBTORCH_LIB={lib}");
    }
}
