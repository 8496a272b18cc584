//! Convolution with kernels of 3x3.

use crate::ffi;
use tch::Tensor;

/// Convolution of stride 1 that keeps the size: `x` `[B, from, H, W]`, `weight` `[to, from, 3, 3]`, `bias` `[to]`, to
/// `[B, to, H, W]`.
///
/// On the CPU in f32, with channels in whole multiples of 16 (32 with AVX-512), Winograd's minimal filtering F(4x4, 3x3)
/// takes a quarter of the multiplications, forward and backward; Lavin and Gray 2016. Its rounding error is about twice
/// that of the direct sum. A batch of fewer than 8 tiles of 4x4 places, and everything else, takes libtorch's own
/// convolution. Can be differentiated twice.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn conv3x3(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    // SAFETY: the pointers are valid during the call, and the shim catches every exception.
    ffi::made(|out| unsafe { ffi::heldout_conv3x3(x.as_ptr(), weight.as_ptr(), ffi::optional(bias), out) })
}
