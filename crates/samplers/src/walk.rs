//! The loop that every sampler shares: a checked grid, its schedule constants on the host, and the model's estimates.

use heldout_core::{Cond, Denoiser, Error, Marginal, Posterior, Prepared, Result, Step};
use tch::{Kind, Tensor};

/// Levels of noise: times for the network, constants for the arithmetic.
pub(crate) struct Levels<'a> {
    /// `[N, B]`, f64, on the device of the states.
    times: Tensor,
    /// The model, ready for them.
    prepared: Option<Box<dyn Prepared + 'a>>,
    pub(crate) alpha: Vec<f64>,
    pub(crate) sigma: Vec<f64>,
}

impl<'a> Levels<'a> {
    /// `t` `[N]`, f64, for states like `x`.
    fn new(denoiser: &'a dyn Denoiser, t: &Tensor, x: &Tensor) -> Result<(Self, Marginal)> {
        let m = denoiser.schedule().marginal(t);
        let (alpha, sigma) = (Vec::try_from(&m.alpha)?, Vec::try_from(&m.sigma)?);
        let times = t.unsqueeze(1).expand([-1, x.size()[0]], false).contiguous();
        Ok((Self { times, prepared: denoiser.prepare(t, x.kind()), alpha, sigma }, m))
    }

    /// Half the log SNR, the `lambda` of the DPM-Solver papers.
    pub(crate) fn half_log_snr(&self, i: usize) -> f64 {
        (self.alpha[i] / self.sigma[i]).ln()
    }

    /// `sigma / alpha`, the noise level of Karras et al. 2022.
    pub(crate) fn ratio(&self, i: usize) -> f64 {
        self.sigma[i] / self.alpha[i]
    }

    /// `(alpha, sigma)`.
    pub(crate) fn pair(&self, i: usize) -> (f64, f64) {
        (self.alpha[i], self.sigma[i])
    }

    fn denoise(
        &self,
        denoiser: &dyn Denoiser,
        i: usize,
        x: &Tensor,
        cond: &Cond,
    ) -> (Tensor, Option<Tensor>) {
        match &self.prepared {
            Some(prepared) => prepared.denoise_with_variance(i, x, cond),
            None => denoiser.denoise_with_variance(x, &self.times.get(i as i64), cond),
        }
    }
}

/// One run of a sampler down its grid.
pub(crate) struct Walk<'a> {
    denoiser: &'a dyn Denoiser,
    cond: &'a Cond,
    watch: &'a mut dyn FnMut(Step<'_>),
    times: &'a [f64],
    pub(crate) grid: Levels<'a>,
    marginal: Marginal,
    /// Says what states are like.
    like: Tensor,
}

impl<'a> Walk<'a> {
    /// Checks everything that a user gives.
    pub(crate) fn new(
        denoiser: &'a dyn Denoiser,
        x: &Tensor,
        times: &'a [f64],
        cond: &'a Cond,
        watch: &'a mut dyn FnMut(Step<'_>),
    ) -> Result<Self> {
        check_times(times)?;
        let batch = x.size().first().copied().unwrap_or(0);
        check_batch(batch, cond)?;
        finite(x, "x", "the state that sampling starts from")?;
        let t = Tensor::from_slice(times).to_device(x.device());
        let (grid, marginal) = Levels::new(denoiser, &t, x)?;
        let last = times.len() - 1;
        if let Some(i) = (0..last).find(|i| grid.sigma[*i] <= 0.0) {
            let reason = format!("{} is clean data on this schedule, and is not the last", times[i]);
            return Err(Error::config("times", reason));
        }
        if !grid.alpha.iter().chain(&grid.sigma).all(|c| c.is_finite()) {
            return Err(Error::config("times", "the schedule is not finite on them"));
        }
        Ok(Self { denoiser, cond, watch, times, grid, marginal, like: x.shallow_clone() })
    }

    pub(crate) fn steps(&self) -> usize {
        self.times.len() - 1
    }

    /// `x_start_hat` at the grid's level `i`, which is shown to the watcher.
    pub(crate) fn denoise(&mut self, i: usize, x: &Tensor) -> Tensor {
        self.denoise_with_variance(i, x).0
    }

    /// The same with the variance of a model that learned it.
    pub(crate) fn denoise_with_variance(&mut self, i: usize, x: &Tensor) -> (Tensor, Option<Tensor>) {
        let (hat, variance) = self.grid.denoise(self.denoiser, i, x, self.cond);
        self.show(i, x, &hat);
        (hat, variance)
    }

    pub(crate) fn show(&mut self, i: usize, x: &Tensor, hat: &Tensor) {
        (self.watch)(Step { x_t: x, x_start_hat: hat, t: self.times[i] });
    }

    /// `x_start_hat` within a step.
    pub(crate) fn denoise_inside(&self, levels: &Levels<'_>, i: usize, x: &Tensor) -> Tensor {
        levels.denoise(self.denoiser, i, x, self.cond).0
    }

    /// Levels with these half log SNRs, for stages between the grid times.
    pub(crate) fn levels(&self, half_log_snr: &[f64]) -> Result<Levels<'a>> {
        let log_snr = Tensor::from_slice(half_log_snr).to_device(self.grid.times.device()) * 2.0;
        let t = self.denoiser.schedule().time_of(&log_snr).clamp(0.0, 1.0);
        Ok(Levels::new(self.denoiser, &t, &self.like)?.0)
    }

    /// `q(x_next | x_now, x_start)` of every step; fields `[N]`.
    pub(crate) fn posteriors(&self) -> Posterior {
        let n = self.steps() as i64;
        Posterior::of(&self.marginal.narrow(0, n), &self.marginal.narrow(1, n))
    }
}

/// The result, unless the model has spoiled it.
pub(crate) fn finish(x: Tensor) -> Result<Tensor> {
    finite(&x, "x_start_hat", "the model's estimates were")?;
    Ok(x)
}

pub(crate) fn finite(x: &Tensor, name: &str, what: &str) -> Result<()> {
    // One reduction: the sum of a set with a NaN or an infinity is one.
    if x.sum(Kind::Double).double_value(&[]).is_finite() {
        return Ok(());
    }
    Err(Error::config(name, format!("holds NaN or infinite values: {what}")))
}

fn check_times(times: &[f64]) -> Result<()> {
    if times.len() < 2 {
        let reason = format!("{}: a step needs two, from noise to data", times.len());
        return Err(Error::config("times", reason));
    }
    if let Some(t) = times.iter().find(|t| !(0.0..=1.0).contains(*t)) {
        return Err(Error::config("times", format!("{t} is not in [0, 1]: 0 is data, 1 is noise")));
    }
    if let Some(w) = times.windows(2).find(|w| w[1] >= w[0]) {
        let reason = format!("{} follows {}: they must fall, from noise to data", w[1], w[0]);
        return Err(Error::config("times", reason));
    }
    Ok(())
}

pub(crate) fn check_batch(batch: i64, cond: &Cond) -> Result<()> {
    if batch == 0 {
        return Err(Error::config("x", "holds no sample"));
    }
    for (name, t) in [("cond.label", &cond.label), ("cond.context", &cond.context)] {
        let rows = t.as_ref().map(|t| t.size().first().copied().unwrap_or(0));
        if let Some(rows) = rows.filter(|rows| *rows != batch) {
            return Err(Error::config(name, format!("{rows} rows for {batch} samples")));
        }
    }
    Ok(())
}

/// Weights of `x_t` and `x_start_hat` in the straight step between two levels: Euler's in `sigma / alpha`, the
/// deterministic one of DDIM.
pub(crate) fn straight((alpha, sigma): (f64, f64), (next_alpha, next_sigma): (f64, f64)) -> (f64, f64) {
    let kept = next_sigma / sigma;
    (kept, next_alpha - alpha * kept)
}
