//! The functions of the shim, as it exports them.

use std::ffi::{c_char, c_int};
use torch_sys::C_tensor;

unsafe extern "C" {
    pub(crate) fn heldout_free(text: *mut c_char);
    pub(crate) fn heldout_adam(
        n: usize,
        params: *const *mut C_tensor,
        grads: *const *mut C_tensor,
        first: *const *mut C_tensor,
        second: *const *mut C_tensor,
        step: f64,
        rate: f64,
        beta1: f64,
        beta2: f64,
        eps: f64,
        weight_decay: f64,
        decoupled: c_int,
    ) -> *mut c_char;
    pub(crate) fn heldout_norm(
        n: usize,
        tensors: *const *mut C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_scale(
        n: usize,
        tensors: *const *mut C_tensor,
        factor: *const C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_forget_grads(n: usize, tensors: *const *mut C_tensor) -> *mut c_char;
    pub(crate) fn heldout_lerp(
        n: usize,
        tensors: *const *mut C_tensor,
        ends: *const *mut C_tensor,
        weight: f64,
    ) -> *mut c_char;
    pub(crate) fn heldout_add(
        n: usize,
        tensors: *const *mut C_tensor,
        others: *const *mut C_tensor,
        factor: f64,
    ) -> *mut c_char;
    pub(crate) fn heldout_set_grads(
        n: usize,
        tensors: *const *mut C_tensor,
        grads: *const *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_meta(
        sizes: *const i64,
        dims: usize,
        like: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_is_meta(tensor: *const C_tensor) -> c_int;
    pub(crate) fn heldout_attend(
        q: *const C_tensor,
        k: *const C_tensor,
        v: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_group_norm(
        x: *const C_tensor,
        shift: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        groups: i64,
        eps: f64,
        silu: c_int,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_modulate(
        x: *const C_tensor,
        shift: *const C_tensor,
        scale: *const C_tensor,
        eps: f64,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_gated(
        x: *const C_tensor,
        gate: *const C_tensor,
        h: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn heldout_reproducible() -> *mut c_char;
    pub(crate) fn heldout_libtorch_version() -> *const c_char;
    pub(crate) fn heldout_gelu(x: *const C_tensor, out: *mut *mut C_tensor) -> *mut c_char;
    pub(crate) fn heldout_conv3x3(
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
}

/// Panics with the message of the shim, if there is one, as tch's own operations do on misuse.
#[track_caller]
pub(crate) fn check(message: *mut c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: the shim hands over a string that ends in 0, of its own heap, once.
    let text = unsafe {
        let text = std::ffi::CStr::from_ptr(message).to_string_lossy().into_owned();
        heldout_free(message);
        text
    };
    panic!("{text}");
}

/// The tensor that `call` makes.
#[track_caller]
pub(crate) fn made(call: impl FnOnce(*mut *mut C_tensor) -> *mut c_char) -> tch::Tensor {
    let mut out = std::ptr::null_mut();
    check(call(&mut out));
    // SAFETY: without an error, the shim has put a tensor of its own there and gives it away.
    unsafe { tch::Tensor::from_ptr(out) }
}

/// Borrowed pointers, valid while the tensors live. The shim changes what they refer to, never the pointers' targets.
pub(crate) fn pointers(tensors: &[tch::Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(|t| t.as_ptr().cast_mut()).collect()
}

/// A tensor that may be missing, as a pointer that may be null.
pub(crate) fn optional(tensor: Option<&tch::Tensor>) -> *const C_tensor {
    tensor.map_or(std::ptr::null(), tch::Tensor::as_ptr)
}
