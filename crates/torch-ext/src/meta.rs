//! Tensors with a shape and no memory.

use crate::ffi;
use tch::{Device, Kind, Tensor};

/// An uninitialised tensor on libtorch's `meta` device: operations on it compute shapes and kinds, and nothing else.
///
/// # Panics
/// If a dimension is negative.
pub fn meta(dims: &[i64], kind: Kind) -> Tensor {
    let like = Tensor::empty([0], (kind, Device::Cpu));
    // SAFETY: the pointers are valid during the call, and the shim catches every exception.
    ffi::made(|out| unsafe { ffi::heldout_meta(dims.as_ptr(), dims.len(), like.as_ptr(), out) })
}

/// Whether a tensor has no memory.
pub fn is_meta(tensor: &Tensor) -> bool {
    // SAFETY: a valid pointer; nothing is thrown.
    unsafe { ffi::heldout_is_meta(tensor.as_ptr()) != 0 }
}
