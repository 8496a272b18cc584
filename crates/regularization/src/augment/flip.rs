//! Mirror images.

use super::pick::{always, check_probability, geometric, only, picked};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Error, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The `rows` `[B]`, boolean, of `x` `[B, C, H, W]` mirrored along `axis`: 2 top to bottom, 3 left to right. Exact.
pub fn flip(x: &Tensor, rows: &Tensor, axis: i64) -> Tensor {
    only(rows, &x.flip([axis]), x)
}

/// Mirrors half of the images, those that `probability` lets it; `[B, C, H, W]`.
///
/// Masks and hints go along. Law: a permutation of the pixels of each image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Flip {
    /// How many images it is for; half of them are mirrored along each axis.
    #[serde(default = "always")]
    pub probability: CurveConfig,
    /// Left to right.
    #[serde(default = "yes")]
    pub horizontal: bool,
    /// Top to bottom.
    #[serde(default)]
    pub vertical: bool,
}

fn yes() -> bool {
    true
}

impl Flip {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        check_probability(&self.probability)?;
        if self.horizontal || self.vertical {
            return Ok(());
        }
        Err(Error::config("horizontal", "false, and so is `vertical`: one of them must be true"))
    }
}

impl Augment for Flip {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 {
            return batch;
        }
        for axis in [self.horizontal.then_some(3), self.vertical.then_some(2)].into_iter().flatten() {
            let rows = picked(&batch.x_start, 0.5 * probability);
            batch = geometric(batch, |x| flip(x, &rows, axis));
        }
        batch
    }
}
