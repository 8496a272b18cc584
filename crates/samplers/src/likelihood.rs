//! How probable data are under a model.

use crate::ode::{Tolerance, integrate};
use crate::probability_flow::{level, slope};
use crate::walk::{check_batch, finite};
use heldout_core::{Cond, Denoiser, Error, NoiseStream, Result, like, mean_flat};
use heldout_schedules::bound_term;
use std::f64::consts::{LN_2, PI};
use tch::{Kind, Tensor};

/// Bits per dimension by the probability-flow equation, its divergence by Hutchinson's estimator; Song et al. 2021, Eq. 39
/// and 40; Grathwohl et al. 2019 (FFJORD), Eq. 7.
///
/// The prior at time 1 is the unit Gaussian, as if nothing of the data were left there: on VP schedules, where `alpha` is
/// about 0.006, that costs up to some thousandths of a bit.
///
/// For data in continuous values: of 8-bit images, spread evenly over their bins and scaled to `[-1, 1]`, add 7.
#[derive(Debug, Clone, Copy)]
pub struct Likelihood {
    /// Error allowed in a step, relative; 1e-5 in Song et al.
    pub rtol: f64,
    /// Error allowed in a step, absolute; 1e-5 in Song et al.
    pub atol: f64,
    /// Random vectors that the divergence is measured with, at least 1: more, less noise.
    pub probes: u64,
    /// The least `sigma / alpha`, positive: what is scored is the density of the data with that much noise. Not below what
    /// the network was trained on: 0.01 on DDPM's schedule, 0.002 in EDM.
    pub sigma_min: f64,
}

impl Likelihood {
    /// `-log2 p(x_start) / dimensions`, `[B]`, f64. The vectors are the signs of `noise`, its step being their number.
    pub fn bits_per_dim(
        &self,
        denoiser: &dyn Denoiser,
        x_start: &Tensor,
        cond: &Cond,
        noise: &mut dyn NoiseStream,
    ) -> Result<Tensor> {
        let tolerance = Tolerance { rtol: self.rtol, atol: self.atol };
        tolerance.check()?;
        if self.probes == 0 {
            return Err(Error::config("probes", "0: at least 1 is needed"));
        }
        if !(self.sigma_min > 0.0 && self.sigma_min.is_finite()) {
            return Err(Error::config("sigma_min", format!("{} is not a positive number", self.sigma_min)));
        }
        check_batch(x_start.size()[0], cond)?;
        finite(x_start, "x_start", "the data")?;
        let schedule = denoiser.schedule();
        let size = x_start.size();
        let dimensions: i64 = size[1..].iter().product();
        let probes: Vec<Tensor> = (0..self.probes).map(|k| noise.draw(x_start, k).sign()).collect();

        let ends = schedule.marginal(&Tensor::from_slice(&[1.0]).to_device(x_start.device()));
        let ends = (self.sigma_min.atan(), ends.sigma.atan2(&ends.alpha).double_value(&[0]));
        let log_snr = Tensor::from_slice(&[-2.0 * self.sigma_min.ln()]).to_device(x_start.device());
        let least = schedule.marginal(&schedule.time_of(&log_snr));
        let (alpha, sigma) = (least.alpha.double_value(&[0]), least.sigma.double_value(&[0]));

        // The state: y, and the integral of the divergence per dimension.
        let y = x_start * (alpha / alpha.hypot(sigma));
        let nothing = Tensor::zeros([size[0], 1], (y.kind(), y.device()));
        let state = Tensor::cat(&[y.flatten(1, -1), nothing], 1);
        let state = integrate(state, ends, tolerance, &mut |state, at, rows| {
            let mut size = size.clone();
            size[0] = rows.size()[0];
            let y = state.narrow(1, 0, dimensions).reshape(size.as_slice());
            let (t, scale) = level(schedule, at);
            let scale = like(&scale, &y);
            let x = (&y * &scale).detach();
            let probes: Vec<Tensor> = probes.iter().map(|v| v.index_select(0, rows)).collect();
            let (hat, trace) = estimate_and_trace(denoiser, &x, &t, &cond.select(rows), &probes);
            let flow = slope(&y, &hat, at).flatten(1, -1);
            let trace = trace * scale.view([-1]); // by y, not by x_t
            let divergence = (at.cos() - trace / dimensions as f64) / at.sin();
            Tensor::cat(&[flow, divergence.to_kind(y.kind()).unsqueeze(1)], 1)
        })?;
        let y = state.narrow(1, 0, dimensions).to_kind(Kind::Double);
        let integral = state.select(1, dimensions).to_kind(Kind::Double);
        let prior = (y.square() + (2.0 * PI).ln()).mean_dim(1i64, false, Kind::Double) * -0.5;
        // From the density of y at the least noise to that of the data.
        let scaling = (alpha / alpha.hypot(sigma)).ln();
        let bits = (prior + integral + scaling) / -LN_2;
        finite(&bits, "x_start_hat", "the model's estimates were")?;
        Ok(bits)
    }
}

/// `x_start_hat`, and the trace of its derivative by `x_t`, `[B]`, f64, as a mean over probes.
fn estimate_and_trace(
    denoiser: &dyn Denoiser,
    x: &Tensor,
    t: &Tensor,
    cond: &Cond,
    probes: &[Tensor],
) -> (Tensor, Tensor) {
    tch::with_grad(|| {
        let x = x.shallow_clone().set_requires_grad(true);
        let hat = denoiser.denoise(&x, t, cond);
        let traces = probes.iter().enumerate().map(|(k, v)| {
            let product = (&hat * v).sum(hat.kind());
            let back = Tensor::run_backward(&[product], &[&x], k + 1 < probes.len(), false).remove(0);
            (back * v).flatten(1, -1).sum_dim_intlist(1i64, false, Kind::Double)
        });
        let sum = traces.reduce(|a, b| a + b).unwrap_or_else(|| t.zeros_like());
        (hat.detach(), sum.detach() / probes.len() as f64)
    })
}

/// The variational bound of a model on a discrete schedule, term by term; Ho et al. 2020, Eq. 5.
#[derive(Debug)]
pub struct VariationalBound {
    /// `KL(q(x_1 | x_start) | N(0, 1))`, bits per dimension `[B]`, f64.
    pub prior: Tensor,
    /// Term `i` is that of the step from time `(i + 1) / steps` to `i / steps`, bits per dimension `[steps, B]`, f64; the
    /// first is `-log p(x_start | x_t)` of 8-bit values.
    pub terms: Tensor,
}

impl VariationalBound {
    /// Of 8-bit images scaled to `[-1, 1]`, `[B, C, H, W]`. Noise of term `i` is `noise` of step `i`. The reverse variance
    /// is the posterior's, or what the model has learned.
    pub fn of(
        denoiser: &dyn Denoiser,
        x_start: &Tensor,
        cond: &Cond,
        steps: usize,
        noise: &mut dyn NoiseStream,
    ) -> Result<Self> {
        if steps == 0 {
            return Err(Error::config("steps", "0: at least 1 is needed"));
        }
        let batch = x_start.size()[0];
        check_batch(batch, cond)?;
        finite(x_start, "x_start", "the data")?;
        let schedule = denoiser.schedule();
        let times: Vec<f64> = (0..=steps).map(|i| i as f64 / steps as f64).collect();
        let times = Tensor::from_slice(&times).to_device(x_start.device());
        let levels = schedule.marginal(&times);
        let at = |i: usize| levels.narrow(i as i64, 1).expand(batch);
        let term = |i: usize| {
            let (now, next) = (at(i + 1), at(i));
            let x_t = like(&now.alpha, x_start) * x_start
                + like(&now.sigma, x_start) * noise.draw(x_start, i as u64);
            let t = times.narrow(0, i as i64 + 1, 1).expand([batch], false);
            let (hat, variance) = denoiser.denoise_with_variance(&x_t, &t, cond);
            bound_term(x_start, &x_t, &hat, variance.as_ref(), &now, &next)
        };
        let terms = tch::no_grad(|| Tensor::stack(&(0..steps).map(term).collect::<Vec<_>>(), 0));
        let last = at(steps);
        let (signal, noise) = (like(&last.alpha, x_start) * x_start, like(&last.sigma.square(), x_start));
        let kl = (signal.square() + &noise - 1.0 - noise.log()) * 0.5;
        let prior = mean_flat(&kl).to_kind(Kind::Double) / LN_2;
        finite(&terms, "x_start_hat", "the model's estimates were")?;
        Ok(Self { prior, terms })
    }

    /// The bound, bits per dimension `[B]`, f64.
    pub fn total(&self) -> Tensor {
        &self.prior + self.terms.sum_dim_intlist(0i64, false, Kind::Double)
    }
}
