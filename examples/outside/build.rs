//! The three lines that a crate outside the workspace needs to find libtorch when it runs.
fn main() {
    println!("cargo::rustc-link-arg=-Wl,-rpath,{}", std::env::var("DEP_HELDOUT_CORE_LIBTORCH_LIB").unwrap());
}
