//! Time grids: which noise levels a sampler visits.

use heldout_core::{Error, NoiseSchedule, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// `steps + 1` times for `steps` steps, falling from noise to data, which are at 1 and 0.
///
/// All but [`EndingAt`](Self::EndingAt) end at 0. Where a grid speaks of training steps, step `k` of `train_steps`
/// lies at time `(k + 1) / train_steps`, as in a discrete schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TimeGrid {
    /// Equal steps of time from `first` to 0. From 1 it is the trailing grid wherever `steps` divides the training steps.
    Linear {
        /// The first time; 1 is noise.
        #[serde(default = "one")]
        first: f64,
    },
    /// Equal steps of time from 1 to `last`, and one more to 0.
    LinearTo {
        /// The last time but one.
        last: f64,
    },
    /// Every `train_steps / steps`th training step, counted from the noisiest; Lin et al. 2024, Table 2, "trailing".
    Trailing {
        /// Steps of the training schedule.
        train_steps: usize,
    },
    /// Every `train_steps / steps`th training step, counted from the cleanest; Lin et al. 2024, Table 2, "leading". The
    /// noisiest levels are not visited.
    Leading {
        /// Steps of the training schedule.
        train_steps: usize,
        /// Added to each step: 1 in Stable Diffusion.
        #[serde(default)]
        offset: usize,
    },
    /// From the noisiest to the cleanest training step, rounded to steps; Lin et al. 2024, Table 2, "linspace".
    Linspace {
        /// Steps of the training schedule.
        train_steps: usize,
    },
    /// The same without rounding, `sigma / alpha` in between being interpolated in a line, as k-diffusion does.
    Interpolated {
        /// Steps of the training schedule.
        train_steps: usize,
    },
    /// Equal steps of `(sigma / alpha)^(1 / rho)`; Karras et al. 2022, Eq. 5: `rho` 7 there.
    Karras {
        /// The larger, the more steps at low noise.
        rho: f64,
        /// Between which levels.
        ends: GridEnds,
    },
    /// Equal steps of log SNR ("exponential": `sigma / alpha` in equal ratios); Lu et al. 2022 (DPM-Solver), section 3.4.
    UniformLogSnr {
        /// Between which levels.
        ends: GridEnds,
    },
    /// `inner` for one step more, without its last time before 0.
    WithoutLast {
        /// The grid.
        inner: Box<Self>,
    },
    /// `inner` with `sigma / alpha` multiplied at every time; Esser et al. 2024, Eq. 23: 3 for images of a megapixel.
    Shifted {
        /// The factor.
        shift: f64,
        /// The grid.
        inner: Box<Self>,
    },
    /// `inner` with another start than pure noise.
    StartingAt {
        /// The grid.
        inner: Box<Self>,
        /// The first time.
        first: f64,
    },
    /// `inner` with another end than clean data; it has fewer steps where `inner` goes further than that.
    EndingAt {
        /// The grid.
        inner: Box<Self>,
        /// The last time.
        last: f64,
    },
}

/// The first level of a grid, and the last one before clean data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GridEnds {
    /// By `sigma / alpha`: 0.002 and 80 in EDM.
    Sigma {
        /// The last before clean data.
        min: f64,
        /// The first.
        max: f64,
    },
    /// Those of another grid.
    Of {
        /// The other grid.
        grid: Box<TimeGrid>,
    },
}

impl Default for TimeGrid {
    fn default() -> Self {
        Self::Linear { first: 1.0 }
    }
}

fn one() -> f64 {
    1.0
}

impl TimeGrid {
    /// The times for `steps` steps, or which field cannot be honoured.
    pub fn times(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Vec<f64>> {
        if steps == 0 {
            return Err(Error::config("steps", "0: at least 1 is needed"));
        }
        let mut times = match self {
            Self::EndingAt { inner, last } => {
                let mut times = inner.times(schedule, steps)?;
                // A grid that gets there by itself gets there once.
                times.retain(|t| *t > last + 1e-9);
                times.push(*last);
                times
            }
            Self::StartingAt { inner, first } => {
                let mut times = inner.times(schedule, steps)?;
                times[0] = *first;
                times
            }
            Self::Shifted { shift, inner } => {
                if !(*shift > 0.0 && shift.is_finite()) {
                    return Err(Error::config("shift", format!("{shift} is not a positive number")));
                }
                let times = inner.times(schedule, steps)?;
                let shifted = times_of(schedule, ratios(schedule, &times)?.into_iter().map(|r| r * shift))?;
                // The ends stay: their sigma / alpha may be infinite.
                let is_end = |t: f64| t <= 0.0 || t >= 1.0;
                times.into_iter().zip(shifted).map(|(t, s)| if is_end(t) { t } else { s }).collect()
            }
            Self::WithoutLast { inner } => {
                let mut times = inner.times(schedule, steps + 1)?;
                if times.len() > 2 {
                    times.remove(times.len() - 2);
                }
                times
            }
            _ => {
                let mut times = self.before_the_end(schedule, steps)?;
                times.push(0.0);
                times
            }
        };
        // Levels that were found by their sigma may lie a rounding error outside.
        times.iter_mut().filter(|t| **t > 1.0 && **t < 1.0 + 1e-9).for_each(|t| *t = 1.0);
        if times.windows(2).all(|w| w[1] < w[0]) && times[0] <= 1.0 {
            return Ok(times);
        }
        let reason = format!("{steps} is too many: the times of this grid do not fall from at most 1");
        Err(Error::config("steps", reason))
    }

    fn before_the_end(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Vec<f64>> {
        let line =
            |from: f64, to: f64| move |i: usize| from + (to - from) * i as f64 / (steps - 1).max(1) as f64;
        let of_steps = |train_steps: usize, at: &dyn Fn(usize) -> f64| -> Result<Vec<f64>> {
            if train_steps < steps {
                let reason = format!("{steps}: more than the {train_steps} of the training schedule");
                return Err(Error::config("steps", reason));
            }
            Ok((0..steps).map(|i| (at(i) + 1.0) / train_steps as f64).collect())
        };
        Ok(match self {
            Self::Linear { first } => (0..steps).map(|i| first * (1.0 - i as f64 / steps as f64)).collect(),
            Self::LinearTo { last } => (0..steps).map(line(1.0, *last)).collect(),
            Self::Trailing { train_steps } => {
                let stride = *train_steps as f64 / steps as f64;
                of_steps(*train_steps, &|i| {
                    (*train_steps as f64 - i as f64 * stride).round_ties_even() - 1.0
                })?
            }
            Self::Leading { train_steps, offset } => {
                let stride = train_steps / steps;
                of_steps(*train_steps, &|i| ((steps - 1 - i) * stride + offset) as f64)?
            }
            Self::Linspace { train_steps } => {
                let at = line(*train_steps as f64 - 1.0, 0.0);
                of_steps(*train_steps, &|i| at(i).round_ties_even())?
            }
            Self::Interpolated { train_steps } => {
                let n = *train_steps as f64;
                let places: Vec<f64> = (0..steps).map(line(n - 1.0, 0.0)).collect();
                let at = |round: fn(f64) -> f64| -> Result<Vec<f64>> {
                    ratios(schedule, &places.iter().map(|p| (round(*p) + 1.0) / n).collect::<Vec<_>>())
                };
                let (low, high) = (at(f64::floor)?, at(f64::ceil)?);
                let between = low.iter().zip(&high).zip(&places);
                times_of(schedule, between.map(|((l, h), p)| l + (h - l) * p.fract()))?
            }
            Self::Karras { rho, ends } => {
                if !(*rho > 0.0 && rho.is_finite()) {
                    return Err(Error::config("rho", format!("{rho} is not a positive number")));
                }
                let (min, max) = ends.ratios(schedule, steps)?;
                let at = line(max.powf(1.0 / rho), min.powf(1.0 / rho));
                times_of(schedule, (0..steps).map(|i| at(i).powf(*rho)))?
            }
            Self::UniformLogSnr { ends } => {
                let (min, max) = ends.ratios(schedule, steps)?;
                let at = line(max.ln(), min.ln());
                times_of(schedule, (0..steps).map(|i| at(i).exp()))?
            }
            Self::Shifted { .. }
            | Self::WithoutLast { .. }
            | Self::StartingAt { .. }
            | Self::EndingAt { .. } => self.times(schedule, steps)?,
        })
    }
}

impl GridEnds {
    /// Least and greatest `sigma / alpha`.
    fn ratios(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<(f64, f64)> {
        let (min, max) = match self {
            Self::Sigma { min, max } => (*min, *max),
            Self::Of { grid } => {
                let ratio = ratios(schedule, &grid.times(schedule, steps)?)?;
                (ratio[ratio.len() - 2], ratio[0])
            }
        };
        if min > 0.0 && min <= max && max.is_finite() {
            return Ok((min, max));
        }
        let reason = format!("sigma / alpha from {max} to {min}: give both, positive and finite, as `sigma`");
        Err(Error::config("ends", reason))
    }
}

/// `sigma / alpha`.
fn ratios(schedule: &dyn NoiseSchedule, times: &[f64]) -> Result<Vec<f64>> {
    let m = schedule.marginal(&Tensor::from_slice(times));
    Ok(Vec::try_from(m.sigma / m.alpha)?)
}

fn times_of(schedule: &dyn NoiseSchedule, ratios: impl Iterator<Item = f64>) -> Result<Vec<f64>> {
    let log_snr: Vec<f64> = ratios.map(|r| -2.0 * r.ln()).collect();
    Ok(Vec::try_from(schedule.time_of(&Tensor::from_slice(&log_snr)))?)
}
