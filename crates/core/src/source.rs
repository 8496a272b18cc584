//! Where batches, times and noise come from.

use crate::{Batch, Clock, Persist, Result};
use std::fmt::Debug;
use tch::{Device, Tensor};

/// A stream of training batches.
///
/// Law: a function of the seed and the clock, so that a resumed run sees the same data.
pub trait BatchSource: Debug {
    /// The batch of this step.
    fn batch(&mut self, clock: Clock) -> Result<Batch>;
}

impl<S: BatchSource + ?Sized> BatchSource for Box<S> {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        (**self).batch(clock)
    }
}

/// Times and importance weights, both `[B]`, f64.
#[derive(Debug)]
pub struct Times {
    /// In `[0, 1]`.
    pub t: Tensor,
    /// What makes the weighted mean of the loss an unbiased one; ones where the sampler means its density.
    pub weight: Tensor,
}

/// Draws the noise levels of a training batch from libtorch's generator.
///
/// Law: `t` in `[0, 1]`; the same after the same seed.
pub trait TimeSampler: Debug + Persist {
    /// `n` times.
    fn sample(&mut self, n: i64, clock: Clock, device: Device) -> Times;
    /// Feedback for loss-aware samplers: the loss with its weight by noise level and without [`Times::weight`]; both `[B]`,
    /// detached.
    fn observe(&mut self, _t: &Tensor, _loss: &Tensor) {}
}

impl<T: TimeSampler + ?Sized> TimeSampler for Box<T> {
    fn sample(&mut self, n: i64, clock: Clock, device: Device) -> Times {
        (**self).sample(n, clock, device)
    }

    fn observe(&mut self, t: &Tensor, loss: &Tensor) {
        (**self).observe(t, loss);
    }
}

/// Changes a batch before noise is added.
///
/// Law: keeps the batch's shape; the same after the same seed; draws nothing at strength 0.
pub trait Augment: Debug {
    /// The changed batch.
    fn augment(&mut self, batch: Batch, clock: Clock) -> Batch;
}

/// The two roles of a draw of noise, both `[B, C, H, W]`.
#[derive(Debug)]
pub struct NoiseDraw {
    /// What is added to the data.
    pub applied: Tensor,
    /// What the target is made of.
    pub target: Tensor,
}

/// Draws the noise of a training batch from libtorch's generator.
///
/// Law: the target has mean 0 and variance 1, or about 1 where a source says so; the same after the same seed; draws no
/// more than the source inside at strength 0.
pub trait NoiseSource: Debug {
    /// Noise like `x_start` `[B, C, H, W]` for times `t` `[B]`.
    fn draw(&mut self, x_start: &Tensor, t: &Tensor, clock: Clock) -> NoiseDraw;
}

impl<N: NoiseSource + ?Sized> NoiseSource for Box<N> {
    fn draw(&mut self, x_start: &Tensor, t: &Tensor, clock: Clock) -> NoiseDraw {
        (**self).draw(x_start, t, clock)
    }
}
