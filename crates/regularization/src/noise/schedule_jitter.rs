//! A noise schedule that varies from example to example.

use heldout_core::{Clock, Curve, CurveConfig, Error, NoiseDraw, NoiseSchedule, NoiseSource, Result, like};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Settings of [`ScheduleJitter`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ScheduleJitterConfig {
    /// Standard deviation of `ln k`, from 0 up.
    pub strength: CurveConfig,
}

impl ScheduleJitterConfig {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        self.strength.check("strength", 0.0, f64::INFINITY)
    }
}

/// Every example has its own variance-preserving schedule, `beta` times `k = exp(strength z)`, `z ~ N(0, 1)` of `[B]`:
/// `alpha' = alpha^k`, `sigma'^2 = 1 - alpha'^2`, from Ho et al. 2020, Eq. 4, with `ln alpha_bar` multiplied.
///
/// The network is still told `t`, so that it must not trust the noise level to the last digit. As noise of the schedule
/// itself: `applied = ((alpha' - alpha) x_start + sigma' noise) / sigma`, and the target alike; `[B, C, H, W]`.
///
/// Law: `x_start_hat` of the target is `x_start`, so that what is asked for stays clean data; the target has variance
/// about 1, `sigma'^2 / sigma^2` for data of mean 0 and small variance.
#[derive(Debug)]
pub struct ScheduleJitter<N> {
    inner: N,
    config: ScheduleJitterConfig,
    schedule: Rc<dyn NoiseSchedule>,
}

impl<N: NoiseSource> ScheduleJitter<N> {
    /// Around `inner`, for a `schedule` that preserves variance.
    pub fn new(inner: N, config: ScheduleJitterConfig, schedule: Rc<dyn NoiseSchedule>) -> Result<Self> {
        config.check()?;
        let t = Tensor::linspace(0.05, 0.95, 10, (Kind::Double, Device::Cpu));
        let m = schedule.marginal(&t);
        let variance = (m.alpha.square() + m.sigma.square() - 1.0).abs().max().double_value(&[]);
        if variance < 1e-6 {
            return Ok(Self { inner, config, schedule });
        }
        let reason = format!(
            "alpha^2 + sigma^2 is off 1 by {variance:.3} on {schedule:?}: it needs a variance-preserving schedule"
        );
        Err(Error::config("schedule_jitter", reason))
    }
}

impl<N: NoiseSource> NoiseSource for ScheduleJitter<N> {
    fn draw(&mut self, x_start: &Tensor, t: &Tensor, clock: Clock) -> NoiseDraw {
        let draw = self.inner.draw(x_start, t, clock);
        let strength = self.config.strength.at(clock);
        if strength == 0.0 {
            return draw;
        }
        let m = self.schedule.marginal(t);
        let k = (t.randn_like() * strength).exp();
        let log_alpha = m.alpha.log() * &k;
        let sigma = (log_alpha.shallow_clone() * 2.0).expm1().neg().clamp_min(0.0).sqrt();
        // Near clean data the ratio of the sigmas has a limit, and the data's share vanishes.
        let safe = m.sigma.clamp_min(1e-6);
        let of_noise = (sigma / &safe).where_self(&m.sigma.gt(1e-6), &k.sqrt());
        let of_data = (log_alpha.exp() - &m.alpha) / safe;
        let shift = like(&of_data, x_start) * x_start;
        let of_noise = like(&of_noise, x_start);
        NoiseDraw { applied: draw.applied * &of_noise + &shift, target: draw.target * of_noise + shift }
    }
}
