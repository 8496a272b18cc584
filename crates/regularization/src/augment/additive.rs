//! Images and latents with noise of their own.

use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Result};
use serde::{Deserialize, Serialize};

/// `x_start + strength * noise`, which the network learns to give back; `[B, C, H, W]`. Parzen 1962: a kernel estimate of the
/// density.
///
/// What it learns is the data blurred by a Gaussian of this width.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AdditiveNoise {
    /// Standard deviation of the noise, from 0 up.
    pub strength: CurveConfig,
}

impl AdditiveNoise {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        self.strength.check("strength", 0.0, f64::INFINITY)
    }
}

impl Augment for AdditiveNoise {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let strength = self.strength.at(clock);
        if strength != 0.0 {
            batch.x_start = &batch.x_start + batch.x_start.randn_like() * strength;
        }
        batch
    }
}
