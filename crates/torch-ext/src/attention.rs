//! Scaled dot product attention.

use crate::ffi;
use tch::Tensor;

/// `softmax(q k^T / sqrt(D)) v`: `q` `[B, heads, L, D]`, `k` and `v` `[B, heads, M, D]`, to `[B, heads, L, D]`; Vaswani et
/// al. 2017, Eq. 1.
///
/// On the CPU a kernel of this crate serves heads up to a width of 16, without the matrix of scores and without copies
/// as long as the last dimension is contiguous; libtorch's kernels serve the rest. The result lies in memory as
/// `[B, L, heads, D]`, so that `transpose(1, 2).reshape([B, L, heads * D])` is a view. Can be differentiated twice.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    // SAFETY: the pointers are valid during the call, and the shim catches every exception.
    ffi::made(|out| unsafe { ffi::heldout_attend(q.as_ptr(), k.as_ptr(), v.as_ptr(), out) })
}
