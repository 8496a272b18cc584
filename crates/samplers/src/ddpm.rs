//! Ancestral sampling.

use crate::walk::{Walk, finish};
use heldout_core::{Cond, Denoiser, Error, NoiseStream, Result, Sampler, Step, combine};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The variance of an ancestral step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Variance {
    /// That of the posterior `q(x_s | x_t, x_start)`: right for a single training point; Ho et al. 2020, section 3.2.
    FixedSmall,
    /// That of the forward step `q(x_t | x_s)`: right for unit Gaussian data; Ho et al. 2020, section 3.2.
    FixedLarge,
    /// What the model says, between the two; Nichol and Dhariwal 2021, Eq. 15.
    Learned,
}

/// Ho et al. 2020, Algorithm 2, for any pair of times (Kingma et al. 2021, Eq. 32 and 33).
///
/// The step onto clean data adds no noise, as in line 3 of the algorithm.
#[derive(Debug, Clone, Copy)]
pub struct Ddpm {
    /// Which variance.
    pub variance: Variance,
}

impl Sampler for Ddpm {
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
        let posterior = walk.posteriors();
        let host = |t: &Tensor| Vec::<f64>::try_from(t);
        let (of_x_t, of_x_start) = (host(&posterior.of_x_t)?, host(&posterior.of_x_start)?);
        let log_variance = match self.variance {
            Variance::FixedLarge => host(&posterior.log_large)?,
            Variance::FixedSmall | Variance::Learned => host(&posterior.log_small)?,
        };
        for i in 0..walk.steps() {
            let (hat, learned) = walk.denoise_with_variance(i, &x);
            if self.variance == Variance::Learned && learned.is_none() {
                let reason = "learned: this model has no variance; use fixed_small or fixed_large";
                return Err(Error::config("variance", reason));
            }
            let mean = combine([(of_x_t[i], &x), (of_x_start[i], &hat)]);
            if walk.grid.sigma[i + 1] <= 0.0 {
                return finish(mean);
            }
            let fresh = noise.draw(&x, i as u64);
            x = match learned.filter(|_| self.variance == Variance::Learned) {
                Some(v) => mean + (posterior.row(i as i64).log_variance(Some(&v), &x) * 0.5).exp() * fresh,
                None => combine([(1.0, &mean), ((log_variance[i] * 0.5).exp(), &fresh)]),
            };
        }
        finish(x)
    }
}
