//! From noise to images.

use crate::{Cond, Denoiser, Result};
use std::fmt::Debug;
use tch::Tensor;

/// One step of a sampler, for those who watch.
#[derive(Debug)]
pub struct Step<'a> {
    /// `[B, C, H, W]`.
    pub x_t: &'a Tensor,
    /// `[B, C, H, W]`.
    pub x_start_hat: &'a Tensor,
    /// The time of `x_t`.
    pub t: f64,
}

/// The noise of a stochastic sampler: row `i` depends on the sample's own number, not on the batch it is in.
///
/// Law: a set of samples is the same however it is split into batches.
pub trait NoiseStream: Debug {
    /// Unit Gaussian noise like `x` `[B, ..]` for step `step` of the sampler.
    fn draw(&mut self, x: &Tensor, step: u64) -> Tensor;
}

/// Solves the reverse process.
///
/// Law: exact on a Gaussian in the limit of many steps; the same set however it is split into batches.
pub trait Sampler: Debug {
    /// Integrates down `times`, from `times[0]` to the last; `x` `[B, C, H, W]` is `x_t` at `times[0]`.
    ///
    /// Errors: fewer than two times, a time that is no number, outside `[0, 1]` or not below the one before, no sample,
    /// conditions for another number of samples, a state or an estimate of the model that is not finite.
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        times: &[f64],
        cond: &Cond,
        noise: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor>;
}
