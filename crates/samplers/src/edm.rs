//! Euler's and Heun's method in `sigma / alpha`, with and without churn.

use crate::walk::{Walk, finish, straight};
use heldout_core::{Cond, Denoiser, Error, NoiseStream, Result, Sampler, Step, combine};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Fresh noise before every step, taken away again by a longer step; Karras et al. 2022, Algorithm 2.
///
/// A level is never raised above the schedule's at time 1, where no network was trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// `S_churn`, spread over the steps; 40 for ImageNet-64 in the paper. 0 is none.
    pub amount: f64,
    /// `S_tmin`: the least `sigma / alpha` that is churned; 0.05 there.
    pub sigma_min: f64,
    /// `S_tmax`: the greatest; 50 there.
    pub sigma_max: f64,
    /// `S_noise`: standard deviation of the noise; 1.003 there.
    pub noise: f64,
}

impl Churn {
    /// The deterministic sampler.
    pub const NONE: Self = Self { amount: 0.0, sigma_min: 0.0, sigma_max: f64::INFINITY, noise: 1.0 };

    pub(crate) fn check(&self) -> Result<()> {
        for (field, x) in [
            ("churn.amount", self.amount),
            ("churn.sigma_min", self.sigma_min),
            ("churn.sigma_max", self.sigma_max),
            ("churn.noise", self.noise),
        ] {
            if x.is_nan() || x < 0.0 {
                return Err(Error::config(field, format!("{x} is negative or no number")));
            }
        }
        Ok(())
    }
}

/// Euler's method: one evaluation a step, order 1.
#[derive(Debug, Clone, Copy)]
pub struct Euler {
    /// Fresh noise, or [`Churn::NONE`]: then it is [`Ddim`](crate::Ddim) with `eta` 0.
    pub churn: Churn,
}

/// Heun's method: two evaluations a step, order 2; Karras et al. 2022, Algorithm 1 (no churn) and 2.
///
/// The last step, onto clean data, is Euler's, as there; so is a first step from pure noise, where `sigma / alpha` has no
/// bound.
#[derive(Debug, Clone, Copy)]
pub struct Heun {
    /// Fresh noise, or [`Churn::NONE`].
    pub churn: Churn,
}

impl Sampler for Euler {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        times: &[f64],
        cond: &Cond,
        noise: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        let walk = Walk::new(denoiser, &x, times, cond, watch)?;
        churned(walk, x, &self.churn, noise, |_, step| step.euler)
    }
}

impl Sampler for Heun {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        times: &[f64],
        cond: &Cond,
        noise: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        let walk = Walk::new(denoiser, &x, times, cond, watch)?;
        churned(walk, x, &self.churn, noise, |walk, step| {
            let ((alpha, sigma), (next_alpha, next_sigma)) = (step.now, step.next);
            if alpha <= 0.0 || next_sigma <= 0.0 {
                return step.euler;
            }
            let end = walk.denoise_inside(&walk.grid, step.index + 1, &step.euler);
            // Half the way by the noise estimate at each end. Euler's step says the first, but in fewer digits.
            let half = (next_sigma - next_alpha * sigma / alpha) / 2.0;
            combine([
                (next_alpha / alpha + half / sigma, &step.x),
                (-half * alpha / sigma, &step.x_start_hat),
                (-half * next_alpha / next_sigma, &end),
                (half / next_sigma, &step.euler),
            ])
        })
    }
}

/// A step that Euler's method has made, from a level that may have been churned.
struct Taken {
    index: usize,
    now: (f64, f64),
    next: (f64, f64),
    x: Tensor,
    x_start_hat: Tensor,
    euler: Tensor,
}

fn churned(
    mut walk: Walk<'_>,
    mut x: Tensor,
    churn: &Churn,
    noise: &mut dyn NoiseStream,
    finish_step: impl Fn(&Walk<'_>, Taken) -> Tensor,
) -> Result<Tensor> {
    churn.check()?;
    let steps = walk.steps();
    let gamma = (churn.amount / steps as f64).min(2.0f64.sqrt() - 1.0);
    let is_churned =
        |ratio: f64| gamma > 0.0 && ratio.is_finite() && (churn.sigma_min..=churn.sigma_max).contains(&ratio);
    let raised: Vec<f64> = (0..steps)
        .map(|i| walk.grid.half_log_snr(i) - if is_churned(walk.grid.ratio(i)) { gamma.ln_1p() } else { 0.0 })
        .collect();
    let raised = if gamma > 0.0 { Some(walk.levels(&raised)?) } else { None };
    for i in 0..steps {
        let (mut now, next) = (walk.grid.pair(i), walk.grid.pair(i + 1));
        let x_start_hat = match raised.as_ref().filter(|_| is_churned(walk.grid.ratio(i))) {
            None => walk.denoise(i, &x),
            Some(levels) => {
                let old = now;
                now = levels.pair(i);
                let kept = now.0 / old.0;
                let fresh = (now.1.powi(2) - (kept * old.1).powi(2)).max(0.0).sqrt() * churn.noise;
                x = combine([(kept, &x), (fresh, &noise.draw(&x, i as u64))]);
                let hat = walk.denoise_inside(levels, i, &x);
                walk.show(i, &x, &hat);
                hat
            }
        };
        let (kept, clean) = straight(now, next);
        let euler = combine([(kept, &x), (clean, &x_start_hat)]);
        x = finish_step(&walk, Taken { index: i, now, next, x, x_start_hat, euler });
    }
    finish(x)
}
