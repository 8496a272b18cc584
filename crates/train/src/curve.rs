//! Learning-rate curves.

use heldout_core::{Clock, Curve, Error, Result};
use serde::{Deserialize, Serialize};

/// How the learning rate falls after its warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Not at all.
    Constant,
    /// In a straight line to 0 at the end of the run.
    Linear,
    /// Half a cosine to 0 at the end of the run; Loshchilov and Hutter 2017, Eq. 5, one period.
    Cosine,
}

/// Linear warm-up from `peak / warmup_steps`, then a decay over the whole run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LearningRate {
    /// The highest rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup_steps: u64,
    /// What follows.
    pub decay: Decay,
}

impl LearningRate {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.peak > 0.0 && self.peak.is_finite() {
            return Ok(());
        }
        Err(Error::config("peak", format!("{} is not a positive number", self.peak)))
    }
}

impl Curve for LearningRate {
    fn at(&self, clock: Clock) -> f64 {
        let warm_up = ((clock.step + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let rest = match self.decay {
            Decay::Constant => 1.0,
            Decay::Linear => 1.0 - clock.progress(),
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * clock.progress()).cos()),
        };
        self.peak * warm_up * rest
    }
}
