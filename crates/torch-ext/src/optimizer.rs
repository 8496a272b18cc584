//! One call a step for all parameters.

use crate::ffi;
use tch::Tensor;

/// The constants of [`adam_`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Adam {
    /// Learning rate.
    pub rate: f64,
    /// Decays of the two moments.
    pub betas: [f64; 2],
    /// Added to the denominator.
    pub eps: f64,
    /// Decay of the weights.
    pub weight_decay: f64,
    /// Whether the decay, times the learning rate, acts on the weights alone (AdamW; Loshchilov and Hutter 2019, Algorithm
    /// 2) rather than being added to the gradient.
    pub decoupled: bool,
}

/// Adam, in place; Kingma and Ba 2015, Algorithm 1.
///
/// Four lists of equal length, with tensors of one shape at each place; `step` counts from 1. One device and kind.
///
/// # Panics
/// If the lists do not fit each other.
pub fn adam_(
    params: &[Tensor],
    grads: &[Tensor],
    first: &[Tensor],
    second: &[Tensor],
    step: u64,
    config: &Adam,
) {
    let lengths = [params.len(), grads.len(), first.len(), second.len()];
    assert!(lengths.iter().all(|&n| n == params.len()), "lists of different lengths: {lengths:?}");
    let &Adam { rate, betas: [beta1, beta2], eps, weight_decay, decoupled } = config;
    let [p, g, m, v] = [params, grads, first, second].map(ffi::pointers);
    // SAFETY: four lists of `n` pointers, valid during the call; the shim catches every exception.
    ffi::check(unsafe {
        ffi::heldout_adam(
            p.len(),
            p.as_ptr(),
            g.as_ptr(),
            m.as_ptr(),
            v.as_ptr(),
            step as f64,
            rate,
            beta1,
            beta2,
            eps,
            weight_decay,
            decoupled.into(),
        )
    });
}

/// Euclidean norm of all tensors together, a scalar on their device.
///
/// # Panics
/// If there is none.
pub fn grad_norm(tensors: &[Tensor]) -> Tensor {
    let p = ffi::pointers(tensors);
    // SAFETY: a list of `n` pointers, valid during the call; the shim catches every exception.
    ffi::made(|out| unsafe { ffi::heldout_norm(p.len(), p.as_ptr(), out) })
}

/// Multiplies every tensor by a scalar on their device, in place.
///
/// # Panics
/// If `factor` is not a scalar.
pub fn scale_(tensors: &[Tensor], factor: &Tensor) {
    let p = ffi::pointers(tensors);
    // SAFETY: a list of `n` pointers, valid during the call; the shim catches every exception.
    ffi::check(unsafe { ffi::heldout_scale(p.len(), p.as_ptr(), factor.as_ptr()) });
}

/// Leaves every tensor without a gradient: the next backward pass then hands its own over instead of adding to zeros.
pub fn forget_grads(tensors: &[Tensor]) {
    let p = ffi::pointers(tensors);
    // SAFETY: a list of `n` pointers, valid during the call; the shim catches every exception.
    ffi::check(unsafe { ffi::heldout_forget_grads(p.len(), p.as_ptr()) });
}

/// Moves every tensor by the share `weight` towards the one at the same place of `ends`, in place: an exponential
/// moving average of weights.
///
/// # Panics
/// If the lists do not fit each other.
pub fn lerp_(tensors: &[Tensor], ends: &[Tensor], weight: f64) {
    assert_eq!(tensors.len(), ends.len(), "lists of different lengths");
    let (p, e) = (ffi::pointers(tensors), ffi::pointers(ends));
    // SAFETY: two lists of `n` pointers, valid during the call; the shim catches every exception.
    ffi::check(unsafe { ffi::heldout_lerp(p.len(), p.as_ptr(), e.as_ptr(), weight) });
}

/// Adds `factor` times the tensor at the same place of `others` to every tensor, in place.
///
/// # Panics
/// If the lists do not fit each other.
pub fn add_(tensors: &[Tensor], others: &[Tensor], factor: f64) {
    assert_eq!(tensors.len(), others.len(), "lists of different lengths");
    let (t, o) = (ffi::pointers(tensors), ffi::pointers(others));
    // SAFETY: two lists of `n` pointers, valid during the call; the shim catches every exception.
    ffi::check(unsafe { ffi::heldout_add(t.len(), t.as_ptr(), o.as_ptr(), factor) });
}

/// Makes the tensor at the same place of `grads` the gradient of every tensor, without a copy.
///
/// # Panics
/// If the lists do not fit each other.
pub fn set_grads(tensors: &[Tensor], grads: &[Tensor]) {
    assert_eq!(tensors.len(), grads.len(), "lists of different lengths");
    let (t, g) = (ffi::pointers(tensors), ffi::pointers(grads));
    // SAFETY: two lists of `n` pointers, valid during the call; the shim catches every exception.
    ffi::check(unsafe { ffi::heldout_set_grads(t.len(), t.as_ptr(), g.as_ptr()) });
}
