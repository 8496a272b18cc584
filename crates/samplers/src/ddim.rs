//! Denoising diffusion implicit models.

use crate::walk::{Walk, finish, straight};
use heldout_core::{Cond, Denoiser, NoiseStream, Result, Sampler, Step, combine};
use tch::Tensor;

/// Song et al. 2021 (DDIM), Eq. 12 and 16, in terms of `x_start_hat`, on any schedule.
///
/// `eta` 0 is deterministic: Euler's method in `sigma / alpha` (Song et al. 2021, Eq. 14), and on straight lines Euler's
/// method in time. 1 has the variance of DDPM's posterior. In between and at 1 it is k-diffusion's "Euler ancestral",
/// step by step: `sigma_up` of Karras's notation is `eta` times the posterior's standard deviation, over `alpha`.
#[derive(Debug, Clone, Copy)]
pub struct Ddim {
    /// Share of the posterior's noise, in `[0, 1]`.
    pub eta: f64,
}

impl Sampler for Ddim {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        mut x: Tensor,
        times: &[f64],
        cond: &Cond,
        noise: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        let mut walk = Walk::new(denoiser, &x, times, cond, watch)?;
        for i in 0..walk.steps() {
            let hat = walk.denoise(i, &x);
            let (now, next) = (walk.grid.pair(i), walk.grid.pair(i + 1));
            // The share of the next noise that is fresh: Eq. 16, with alpha^2 for the paper's alpha.
            let shrink = 1.0 - (now.0 * next.1 / (next.0 * now.1)).powi(2);
            let fresh = (self.eta * next.1 * shrink.max(0.0).sqrt()).min(next.1);
            let old = if fresh > 0.0 { (next.1.powi(2) - fresh.powi(2)).max(0.0).sqrt() } else { next.1 };
            let (kept, clean) = straight(now, (next.0, old));
            let mean = combine([(kept, &x), (clean, &hat)]);
            x = if fresh > 0.0 { combine([(1.0, &mean), (fresh, &noise.draw(&x, i as u64))]) } else { mean };
        }
        finish(x)
    }
}
