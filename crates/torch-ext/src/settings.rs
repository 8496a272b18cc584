//! Settings of libtorch as a whole.

use crate::ffi;

/// Makes operations on a GPU give the same bytes each time, in f32 without shortened factors: deterministic kernels alone, no
/// choice of kernels by timing, no TF32. An operation that has no such kernel warns once and goes on.
///
/// Call it before the first tensor is on the GPU: cuBLAS reads the size of its workspace from the environment, which this sets
/// where the user has not. Operations on the CPU do not need it.
pub fn reproducible() {
    // SAFETY: takes nothing; the shim catches every exception.
    ffi::check(unsafe { ffi::heldout_reproducible() });
}

/// The version of libtorch that this was compiled against, as `2.13.0`.
pub fn libtorch_version() -> &'static str {
    // SAFETY: the shim gives a string literal, which ends in 0 and lives as long as the program.
    unsafe { std::ffi::CStr::from_ptr(ffi::heldout_libtorch_version()) }.to_str().unwrap_or("unknown")
}
