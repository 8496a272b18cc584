//! The learned variance of improved DDPM.

use heldout_core::{Denoising, Error, Marginal, Penalty, Persist, Posterior, Result, like};
use std::f64::consts::{LN_2, SQRT_2};
use tch::{Kind, Tensor};

/// The variational bound as a function of the learned variance alone, bits per dimension; Nichol and Dhariwal 2021,
/// Eq. 15 and 16: scaled by 0.001 and added to the plain loss it makes their hybrid loss.
///
/// For models whose network has as many channels again for the variance. The mean is taken as a constant.
#[derive(Debug, Clone, Copy)]
pub struct VarianceBound {
    /// Steps of the discrete schedule.
    pub steps: usize,
}

impl Persist for VarianceBound {}

impl Penalty<Denoising<'_>> for VarianceBound {
    fn name(&self) -> &'static str {
        "variance_bound"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let reason = "the model has no variance channels: give it twice the data's out_channels";
        let variance = view.variance.ok_or_else(|| Error::config("variance_bound", reason))?;
        let noised = view.noised;
        let next = (&noised.t - 1.0 / self.steps as f64).clamp_min(0.0);
        let next = view.denoiser.schedule().marginal(&next);
        let hat = view.x_start_hat.detach();
        let bound = bound_term(&noised.x_start, &noised.x_t, &hat, Some(variance), &noised.marginal, &next);
        Ok((bound * self.steps as f64).to_kind(Kind::Float))
    }
}

/// One term of the variational bound, bits per dimension `[B]`: `KL(q(x_s | x_t, x_start) | p(x_s | x_t))`, or, where
/// `next` is clean data, `-log p(x_start | x_t)` of 8-bit images in `[-1, 1]`; Ho et al. 2020, Eq. 5, 7 and 13.
///
/// The reverse variance is that of the posterior, or lies between it (`variance` -1) and that of the forward step (1).
pub fn bound_term(
    x_start: &Tensor,
    x_t: &Tensor,
    x_start_hat: &Tensor,
    variance: Option<&Tensor>,
    now: &Marginal,
    next: &Marginal,
) -> Tensor {
    let posterior = Posterior::of(now, next);
    let (truth, model) = (posterior.mean(x_t, x_start), posterior.mean(x_t, x_start_hat));
    let log_variance = posterior.log_variance(variance, x_t);
    let exact = like(&posterior.log_small, x_t);
    let kl = ((&log_variance - &exact) + (&exact - &log_variance).exp() - 1.0
        + (&truth - &model).square() * (-&log_variance).exp())
        * 0.5;
    let last = next.sigma.eq(0.0);
    let nats = if last.any().int64_value(&[]) == 0 {
        kl
    } else {
        let likelihood = -discretized_log_likelihood(x_start, &model, &(log_variance * 0.5));
        let last = last.view(like(&next.sigma, x_t).size().as_slice()).expand_as(&kl);
        likelihood.where_self(&last, &kl)
    };
    let nats = nats.flatten(1, -1);
    nats.mean_dim(1i64, false, Kind::Double) / LN_2
}

/// `log p` of 8-bit values in `[-1, 1]` under a Gaussian, whose mass is gathered in 256 bins; Ho et al. 2020, Eq. 13.
fn discretized_log_likelihood(x: &Tensor, mean: &Tensor, log_std: &Tensor) -> Tensor {
    let centered = x - mean;
    let precision = (-log_std).exp();
    let (above, below) = ((&centered + 1.0 / 255.0) * &precision, (&centered - 1.0 / 255.0) * &precision);
    let cdf = |z: &Tensor| (z / SQRT_2).erf() * 0.5 + 0.5;
    // The mass above, from the side where it does not cancel.
    let mass = (cdf(&above) - cdf(&below)).maximum(&(cdf(&-&below) - cdf(&-&above)));
    let log = |p: Tensor| p.clamp_min(1e-12).log();
    let inside = log(mass);
    let inside = log(cdf(&above)).where_self(&x.lt(-0.999), &inside);
    log(cdf(&-below)).where_self(&x.gt(0.999), &inside)
}
