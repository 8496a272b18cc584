//! Guidance by a classifier of noisy data.

use super::{gradient, shift};
use heldout_core::{Cond, Denoiser, NoiseSchedule};
use std::fmt::Debug;
use tch::Tensor;

/// `log p(cond | x_t)` of a model that was trained on noisy data.
pub trait LogProbability: Debug {
    /// `x_t` `[B, C, H, W]`, `t` `[B]` f64 to `[B]`, differentiable by `x_t`.
    fn log_probability(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor;
}

/// `x_start_hat + scale sigma^2 / alpha * d log p(cond | x_t) / d x_t`; Dhariwal and Nichol 2021, Algorithm 2: their
/// `eps - scale sigma d log p / d x_t`, in terms of `x_start_hat`.
#[derive(Debug)]
pub struct ClassifierGuidance<D, C> {
    /// The model, conditional or not.
    pub inner: D,
    /// The classifier.
    pub classifier: C,
    /// 1 is Bayes' rule for an unconditional model.
    pub scale: f64,
}

impl<D: Denoiser, C: LogProbability> Denoiser for ClassifierGuidance<D, C> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let (hat, variance) = self.inner.denoise_with_variance(x_t, t, cond);
        let slope = gradient(x_t, |x| self.classifier.log_probability(x, t, cond));
        (hat + shift(&self.schedule().marginal(t), &slope) * self.scale, variance)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }
}
