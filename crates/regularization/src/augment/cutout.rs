//! Images with a square gone.

use super::erasing::erase;
use super::pick::{always, check_probability, check_range, only, picked, uniform};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Zeros in a square with its middle anywhere in the image, cut off at the edges; `[B, C, H, W]`. DeVries and Taylor 2017,
/// section 3.
///
/// Law: rows that are not picked stay, and so does everything outside the square, to the last bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Cutout {
    /// How many images lose a square.
    #[serde(default = "always")]
    pub probability: CurveConfig,
    /// Its side as a share of the image's, in `[0, 1]`: 0.5 for CIFAR-10 in the paper.
    pub size: f64,
}

impl Cutout {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        check_probability(&self.probability)?;
        check_range("size", self.size, 0.0, 1.0)
    }
}

impl Augment for Cutout {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 || self.size == 0.0 {
            return batch;
        }
        let x = &batch.x_start;
        let rows = picked(x, probability);
        let (h, w) = (x.size()[2] as f64, x.size()[3] as f64);
        let sides = [(self.size * h).round().max(1.0), (self.size * w).round().max(1.0)];
        let start = |side: f64, length: f64| uniform(x, 0.0, side).floor() - (length * 0.5).floor();
        let (top, left) = (start(h, sides[0]), start(w, sides[1]));
        let side = |length: f64| top.full_like(length);
        let boxes = Tensor::stack(&[&top, &left, &side(sides[0]), &side(sides[1])], 1).to_kind(Kind::Int64);
        batch.x_start = only(&rows, &erase(x, &boxes, &x.zeros_like()), x);
        batch
    }
}
