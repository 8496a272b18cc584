//! Draws of the training noise level.

mod adaptive_density;
mod loss_second_moment;
mod shaped;
mod uniform;

pub use adaptive_density::AdaptiveDensity;
pub use loss_second_moment::LossSecondMoment;
pub use shaped::{LogNormalSigma, LogitNormalTimes, ModeTimes};
pub use uniform::{GridTimes, StratifiedTimes, UniformTimes};

use heldout_core::{Error, NoiseSchedule, Result, State, TimeSampler, Times};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// The earliest time that is trained on: at 0 there is no noise to predict.
pub(crate) const FIRST: f64 = 1e-5;

/// A time sampler as a recipe writes it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TimesConfig {
    /// [`GridTimes`] of a discrete schedule, [`UniformTimes`] of another.
    #[default]
    Uniform,
    /// [`StratifiedTimes`].
    Stratified,
    /// [`LogNormalSigma`].
    LogNormalSigma {
        /// Mean of `ln(sigma / alpha)`.
        mean: f64,
        /// Its standard deviation.
        std: f64,
    },
    /// [`LogitNormalTimes`].
    LogitNormal {
        /// Mean of the logit.
        mean: f64,
        /// Its standard deviation.
        std: f64,
    },
    /// [`ModeTimes`].
    Mode {
        /// Strength.
        scale: f64,
    },
    /// [`LossSecondMoment`].
    LossSecondMoment {
        /// Losses remembered of every step.
        history: usize,
        /// Share of uniform draws.
        uniform: f64,
    },
    /// [`AdaptiveDensity`].
    AdaptiveDensity {
        /// Noise levels told apart.
        bins: usize,
        /// Of the running mean squares.
        decay: f64,
        /// Share of uniform draws.
        uniform: f64,
    },
}

impl TimesConfig {
    /// The sampler for a schedule, discrete where it has `steps`; or which field cannot be honoured.
    pub fn build(
        &self,
        schedule: &Rc<dyn NoiseSchedule>,
        steps: Option<usize>,
    ) -> Result<Box<dyn TimeSampler>> {
        let gaussian = |mean: f64, std: f64| {
            if !mean.is_finite() {
                return Err(Error::config("mean", format!("{mean} is not finite")));
            }
            let reason = || format!("{std} is not a positive number");
            if std > 0.0 && std.is_finite() { Ok(()) } else { Err(Error::config("std", reason())) }
        };
        Ok(match *self {
            Self::Uniform => match steps {
                Some(steps) => Box::new(GridTimes { steps }),
                None => Box::new(UniformTimes),
            },
            Self::Stratified => Box::new(StratifiedTimes),
            Self::LogNormalSigma { mean, std } => {
                gaussian(mean, std)?;
                Box::new(LogNormalSigma { mean, std, schedule: schedule.clone() })
            }
            Self::LogitNormal { mean, std } => {
                gaussian(mean, std)?;
                Box::new(LogitNormalTimes { mean, std })
            }
            Self::Mode { scale } => {
                if !(-1.0..=2.0 / (std::f64::consts::PI - 2.0)).contains(&scale) {
                    return Err(Error::config("scale", format!("{scale} is not in [-1, 1.75]")));
                }
                Box::new(ModeTimes { scale })
            }
            Self::LossSecondMoment { history, uniform } => {
                let reason = "loss_second_moment needs a discrete schedule: use adaptive_density";
                let steps = steps.ok_or_else(|| Error::config("kind", reason))?;
                Box::new(LossSecondMoment::new(steps, history, uniform)?)
            }
            Self::AdaptiveDensity { bins, decay, uniform } => {
                Box::new(AdaptiveDensity::new(schedule.as_ref(), bins, decay, uniform)?)
            }
        })
    }
}

/// Times that mean their density: no correction.
fn plain(t: Tensor) -> Times {
    Times { weight: t.ones_like(), t }
}

/// `n` draws from the parts of `[0, 1]` that have these shares: which part, and how far into it.
fn pick(shares: &[f64], n: i64) -> Vec<(usize, f64)> {
    let mut sum = 0.0;
    let ends: Vec<f64> = shares
        .iter()
        .map(|p| {
            sum += p;
            sum
        })
        .collect();
    let draw = |u: f64| {
        let part = ends.partition_point(|end| *end <= u * sum).min(shares.len() - 1);
        (part, (1.0 - (ends[part] - u * sum) / shares[part]).clamp(0.0, 1.0))
    };
    host(&Tensor::rand([n], (Kind::Double, Device::Cpu))).into_iter().map(draw).collect()
}

/// The numbers of a vector, on the host.
pub(crate) fn host(x: &Tensor) -> Vec<f64> {
    let x = x.detach().to_device(Device::Cpu).to_kind(Kind::Double).contiguous();
    let mut numbers = vec![0.0; x.numel()];
    let n = numbers.len();
    x.copy_data(&mut numbers, n);
    numbers
}

/// Takes a list out of a saved state.
pub(crate) fn take<T: DeserializeOwned>(state: &mut State, name: &str) -> Result<T> {
    let value = state.values.remove(name).ok_or_else(|| Error::config(name, "missing in the saved state"))?;
    serde_json::from_value(value).map_err(|e| Error::config(name, e.to_string()))
}
