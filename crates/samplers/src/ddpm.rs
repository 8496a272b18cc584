//! Ancestral sampling.

use crate::grid::one_evaluation_a_step;
use heldout_core::{Cond, Denoiser, NoiseStream, Sampler, Step, like};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The variance of an ancestral step; Ho et al. 2020, section 3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// That of the posterior `q(x_s | x_t, x_start)`: right for a single training point.
    FixedSmall,
    /// That of the forward step `q(x_t | x_s)`: right for unit Gaussian data.
    FixedLarge,
}

/// Ho et al. 2020, Algorithm 2, for any pair of times (Kingma et al. 2021, Eq. 32 and 33).
#[derive(Debug, Clone, Copy)]
pub struct Ddpm {
    /// Which of the paper's two variances.
    pub variance: Variance,
}

impl Sampler for Ddpm {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        times: &[f64],
        cond: &Cond,
        noise: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Tensor {
        one_evaluation_a_step(denoiser, x, times, cond, watch, |s| {
            let (now, next, x) = (&s.now, &s.next, s.x);
            let ratio = &now.alpha / &next.alpha;
            let forward = now.sigma.square() - ratio.square() * next.sigma.square();
            let kept = next.sigma.square() / now.sigma.square();
            let mean = like(&(ratio * &kept), x) * x
                + like(&(&next.alpha * &forward / now.sigma.square()), x) * &s.x_start_hat;
            let variance = match self.variance {
                Variance::FixedSmall => &forward * kept,
                // The step onto clean data adds none, as in the paper's Algorithm 2, line 3.
                Variance::FixedLarge => &forward * kept.gt(0.0).to_kind(forward.kind()),
            };
            mean + like(&variance.clamp_min(0.0).sqrt(), x) * noise.draw(x, s.index)
        })
    }
}
