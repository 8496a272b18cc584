//! Random jitter of the noise level.

use super::FIRST;
use heldout_core::{Clock, Curve, CurveConfig, NoiseSchedule, Result, TimeSampler, Times, persists_inner};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use tch::{Device, Tensor};

/// [`LevelJitter`] as a recipe writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JitterConfig {
    /// Standard deviation of the log SNR, from 0 up.
    pub std: CurveConfig,
}

impl JitterConfig {
    /// Whether the standard deviation is one.
    pub fn check(&self) -> Result<()> {
        self.std.check("std", 0.0, f64::INFINITY)
    }
}

/// Moves every noise level by a Gaussian in log SNR, so that a grid of levels is no grid and none is learned by heart.
///
/// `t' = time_of(log_snr(t) + std * N(0, 1))`, `[n]`, moved to the ends `1e-5` and 1 where it lies beyond; weights stay
/// those of `inner`. Levels are in log SNR as in Kingma et al. 2021, Eq. 3; the jitter itself follows no paper.
/// Law: at `std` 0 it is `inner`, to the last bit.
#[derive(Debug)]
pub struct LevelJitter<T, C> {
    /// What draws the level.
    pub inner: T,
    /// Standard deviation of the log SNR over the run.
    pub std: C,
    /// What says at which time a level is reached.
    pub schedule: Rc<dyn NoiseSchedule>,
}

persists_inner!(LevelJitter<T, C>);

impl<T: TimeSampler, C: Curve> TimeSampler for LevelJitter<T, C> {
    fn sample(&mut self, n: i64, clock: Clock, device: Device) -> Times {
        let Times { t, weight } = self.inner.sample(n, clock, device);
        let std = self.std.at(clock);
        if std == 0.0 {
            return Times { t, weight };
        }
        let level = self.schedule.log_snr(&t) + std * t.randn_like();
        let moved = self.schedule.time_of(&level).clamp(FIRST, 1.0);
        // A level without noise, or without signal, has no neighbours.
        Times { t: moved.where_self(&level.isfinite(), &t), weight }
    }

    fn observe(&mut self, t: &Tensor, loss: &Tensor) {
        self.inner.observe(t, loss);
    }
}
