//! What a diffusion transformer does between its products.

use crate::ffi;
use tch::Tensor;

/// `LN(x) (1 + scale) + shift`, with a layer norm over `D` without weights: `x` `[B, L, D]`, `shift` and `scale` `[B, D]`,
/// to `[B, L, D]`; Peebles and Xie 2023, section 3.2. Can be differentiated twice.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn layer_norm_modulate(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Tensor {
    // SAFETY: the pointers are valid during the call, and the shim catches every exception.
    ffi::made(|out| unsafe { ffi::heldout_modulate(x.as_ptr(), shift.as_ptr(), scale.as_ptr(), eps, out) })
}

/// `x + gate h`: `x` and `h` `[B, L, D]`, `gate` `[B, D]`, to `[B, L, D]`. Can be differentiated twice.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn gated_residual(x: &Tensor, gate: &Tensor, h: &Tensor) -> Tensor {
    // SAFETY: the pointers are valid during the call, and the shim catches every exception.
    ffi::made(|out| unsafe { ffi::heldout_gated(x.as_ptr(), gate.as_ptr(), h.as_ptr(), out) })
}

/// GELU in its approximation by tanh, of any shape; Hendrycks and Gimpel 2016. Can be differentiated twice.
pub fn gelu_tanh(x: &Tensor) -> Tensor {
    // SAFETY: the pointers are valid during the call, and the shim catches every exception.
    ffi::made(|out| unsafe { ffi::heldout_gelu(x.as_ptr(), out) })
}
