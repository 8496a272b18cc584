//! Decays of averages.

use heldout_core::{Clock, Curve, Error, Result};
use serde::{Deserialize, Serialize};

/// The decay of an exponential moving average, in `[0, 1)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EmaDecay {
    /// The same at every step.
    Constant {
        /// The decay.
        decay: f64,
    },
    /// `min(decay, (1 + step) / (10 + step))`: young averages forget their first weights fast. That of Song et al. 2021 and
    /// of TensorFlow's `ExponentialMovingAverage`.
    WarmUp {
        /// The decay that is reached in the end.
        decay: f64,
    },
    /// Half of what is remembered is younger than `steps`, or than `ramp_up` of the run so far; Karras et al. 2022,
    /// appendix F.2, where the half-life is given in images.
    HalfLife {
        /// Half-life in steps.
        steps: f64,
        /// The longest half-life as a share of the steps so far, 0.05 there; no limit if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ramp_up: Option<f64>,
    },
}

impl EmaDecay {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let positive = |field: &str, x: f64| {
            let reason = || format!("{x} is not a positive number");
            if x > 0.0 && x.is_finite() { Ok(()) } else { Err(Error::config(field, reason())) }
        };
        match *self {
            Self::Constant { decay } | Self::WarmUp { decay } if !(0.0..1.0).contains(&decay) => {
                Err(Error::config("decay", format!("{decay} is not in [0, 1)")))
            }
            Self::Constant { .. } | Self::WarmUp { .. } => Ok(()),
            Self::HalfLife { steps, ramp_up } => {
                positive("steps", steps)?;
                ramp_up.map_or(Ok(()), |share| positive("ramp_up", share))
            }
        }
    }
}

impl Curve for EmaDecay {
    fn at(&self, clock: Clock) -> f64 {
        let step = clock.step as f64;
        match *self {
            Self::Constant { decay } => decay,
            Self::WarmUp { decay } => decay.min((1.0 + step) / (10.0 + step)),
            Self::HalfLife { steps, ramp_up } => {
                let half_life = ramp_up.map_or(steps, |share| steps.min(share * step));
                0.5f64.powf(1.0 / half_life.max(1e-8))
            }
        }
    }
}

/// `(1 - 1 / t)^(gamma + 1)` at the `t`th step, counted from 1: the average weighs the weights of step `s` by `s^gamma`;
/// Karras et al. 2024 (EDM2), Eq. 4 and appendix C.
///
/// Its width is a share of the run so far, so that it does not depend on how long the run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PowerDecay {
    /// The power, at least 0.
    pub gamma: f64,
}

impl PowerDecay {
    /// With a width `sigma_rel` between 0 and `12^(-1/2)`, which is the plain mean.
    pub fn of_width(width: f64) -> Result<Self> {
        let widest = Self { gamma: 0.0 }.width();
        if !(width > 1e-3 && width <= widest) {
            let reason = format!("{width} is not between 0.001 and {widest:.4}, the width of the plain mean");
            return Err(Error::config("width", reason));
        }
        let (mut low, mut high) = (0.0, 1e7); // the width falls in gamma
        for _ in 0..200 {
            let gamma = 0.5 * (low + high);
            if (Self { gamma }).width() > width { low = gamma } else { high = gamma }
        }
        Ok(Self { gamma: low })
    }

    /// Standard deviation of the weighing, as a share of the run so far; Eq. 126 of the same paper.
    pub fn width(&self) -> f64 {
        let g = self.gamma;
        ((g + 1.0) / (g + 3.0)).sqrt() / (g + 2.0)
    }
}

impl Curve for PowerDecay {
    fn at(&self, clock: Clock) -> f64 {
        (1.0 - 1.0 / (clock.step + 1) as f64).powf(self.gamma + 1.0)
    }
}
