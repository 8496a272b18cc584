//! Slanted images.

use super::affine::{Interpolation, Padding, rotate};
use super::pick::{always, check_probability, check_range, geometric, only, picked, uniform};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Result};
use serde::{Deserialize, Serialize};

/// Turns images about their middle by a uniform angle of at most `degrees`, reflected beyond the edges; `[B, C, H, W]`.
///
/// Masks and hints go along; images with masks are looked up at the nearest pixel, so that nothing unknown is mixed into
/// what is known. Law: rows that are not picked stay, to the last bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// How many images are turned.
    #[serde(default = "always")]
    pub probability: CurveConfig,
    /// The largest angle, in `[0, 180]`.
    pub degrees: f64,
    /// How values between pixels are found.
    #[serde(default = "bilinear")]
    pub interpolation: Interpolation,
}

fn bilinear() -> Interpolation {
    Interpolation::Bilinear
}

impl Rotation {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        check_probability(&self.probability)?;
        check_range("degrees", self.degrees, 0.0, 180.0)
    }
}

impl Augment for Rotation {
    fn augment(&mut self, batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 || self.degrees == 0.0 {
            return batch;
        }
        let rows = picked(&batch.x_start, probability);
        let most = self.degrees.to_radians();
        let radians = uniform(&batch.x_start, -most, most);
        let interpolation = if batch.known.is_some() { Interpolation::Nearest } else { self.interpolation };
        geometric(batch, |x| only(&rows, &rotate(x, &radians, interpolation, Padding::Reflect), x))
    }
}
