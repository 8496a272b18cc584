//! Denoising diffusion implicit models.

use crate::grid::one_evaluation_a_step;
use heldout_core::{Cond, Denoiser, NoiseStream, Sampler, Step, like};
use tch::Tensor;

/// Song et al. 2021 (DDIM), Eq. 12 and 16, in terms of `x_start_hat`, on any schedule.
///
/// `eta` 0 is deterministic; 1 has the variance of DDPM's posterior.
#[derive(Debug, Clone, Copy)]
pub struct Ddim {
    /// Share of the posterior's noise, in `[0, 1]`.
    pub eta: f64,
}

impl Sampler for Ddim {
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
            let noise_hat = (x - like(&now.alpha, x) * &s.x_start_hat) / like(&now.sigma, x);
            let mean = like(&next.alpha, x) * &s.x_start_hat;
            if self.eta == 0.0 {
                return mean + like(&next.sigma, x) * noise_hat;
            }
            // The share of the next noise that is fresh: Eq. 16, with alpha^2 for the paper's alpha.
            let shrink = 1.0f64 - (&now.alpha * &next.sigma / (&next.alpha * &now.sigma)).square();
            let fresh = &next.sigma * shrink.clamp_min(0.0).sqrt() * self.eta;
            let fresh = fresh.minimum(&next.sigma);
            let kept = (next.sigma.square() - fresh.square()).clamp_min(0.0).sqrt();
            mean + like(&kept, x) * noise_hat + like(&fresh, x) * noise.draw(x, s.index)
        })
    }
}
