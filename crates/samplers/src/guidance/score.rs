//! Guidance by any score of the denoised estimate.

use super::shift;
use heldout_core::{Cond, Denoiser, NoiseSchedule};
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// How good a denoised estimate is: the place where CLIP guidance plugs in, see [`EmbeddingScore`](crate::EmbeddingScore).
pub trait XStartScore: Debug {
    /// `x_start_hat` `[B, C, H, W]` at times `t` `[B]` to `[B]`, higher is better, differentiable.
    fn score(&self, x_start_hat: &Tensor, t: &Tensor, cond: &Cond) -> Tensor;
}

/// `x_start_hat + scale sigma^2 / alpha * d score(x_start_hat) / d x_t`, through the network; Chung et al. 2023 (DPS), Eq.
/// 16; k-diffusion's CLIP guidance on `x_t / alpha`.
#[derive(Debug)]
pub struct ScoreGuidance<D, S> {
    /// The model.
    pub inner: D,
    /// What is better.
    pub score: S,
    /// 500 for spherical distances in k-diffusion.
    pub scale: f64,
}

impl<D: Denoiser, S: XStartScore> Denoiser for ScoreGuidance<D, S> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        // One pass gives both the estimate and its gradient.
        tch::with_grad(|| {
            let x = x_t.detach().set_requires_grad(true);
            let (hat, variance) = self.inner.denoise_with_variance(&x, t, cond);
            let score = self.score.score(&hat, t, cond).sum(Kind::Float);
            let slope = Tensor::run_backward(&[score], &[&x], false, false).remove(0);
            let moved = shift(&self.schedule().marginal(t), &slope) * self.scale;
            (hat.detach() + moved, variance.map(|v| v.detach()))
        })
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }
}
