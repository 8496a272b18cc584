//! Group norm with its neighbours.

use crate::ffi;
use tch::Tensor;

/// The constants and weights of a group norm.
#[derive(Debug, Clone, Copy)]
pub struct GroupNorm<'a> {
    /// Into how many groups the channels fall.
    pub groups: i64,
    /// `[C]`
    pub weight: &'a Tensor,
    /// `[C]`
    pub bias: &'a Tensor,
    /// Added to the variance.
    pub eps: f64,
}

/// Group norm of `x + shift`: `x` `[B, C, ..]`, `shift` `[B, C]`, to the shape of `x`; Wu and He 2018.
///
/// One operation that keeps `x`, the means and the deviations, and no intermediate of its size. Can be differentiated
/// twice.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn group_norm(x: &Tensor, shift: Option<&Tensor>, norm: &GroupNorm<'_>) -> Tensor {
    run(x, shift, norm, false)
}

/// As [`group_norm`], and SiLU of the result.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn group_norm_silu(x: &Tensor, shift: Option<&Tensor>, norm: &GroupNorm<'_>) -> Tensor {
    run(x, shift, norm, true)
}

fn run(x: &Tensor, shift: Option<&Tensor>, norm: &GroupNorm<'_>, silu: bool) -> Tensor {
    let &GroupNorm { groups, weight, bias, eps } = norm;
    // SAFETY: the pointers are valid during the call, and the shim catches every exception.
    ffi::made(|out| unsafe {
        ffi::heldout_group_norm(
            x.as_ptr(),
            ffi::optional(shift),
            weight.as_ptr(),
            bias.as_ptr(),
            groups,
            eps,
            silu.into(),
            out,
        )
    })
}
