//! Images and latents with a box gone.

use super::pick::{check_probability, check_rising, only, picked, uniform};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// `x` `[B, C, H, W]` with `fill` `[B, C, H, W]` in `boxes` `[B, 4]`, `Int64`: top, left, height and width in pixels, of
/// which what lies beyond the edges does not count.
pub fn erase(x: &Tensor, boxes: &Tensor, fill: &Tensor) -> Tensor {
    let within = |start: i64, side: i64| {
        let place = Tensor::arange(side, (Kind::Int64, x.device()));
        let (from, length) = (boxes.narrow(1, start, 1), boxes.narrow(1, start + 2, 1));
        place.ge_tensor(&from).logical_and(&place.lt_tensor(&(from + length))) // [B, side]
    };
    let (rows, columns) = (within(0, x.size()[2]), within(1, x.size()[3]));
    let inside = rows.unsqueeze(2).logical_and(&columns.unsqueeze(1)).unsqueeze(1);
    fill.where_self(&inside, x)
}

/// What stands in an erased box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// Zeros: grey, in images.
    Zeros,
    /// Uniform in `[-1, 1]` for every number, as in the paper, for images.
    Uniform,
    /// Unit Gaussians, for latents.
    Gaussian,
}

/// Fills a random box of each picked image or latent; `[B, C, H, W]`. Zhong et al. 2020, Algorithm 1.
///
/// Where the paper draws until the box fits, ours is cut to the sides. Law: rows that are not picked stay, and so does
/// everything outside the box, to the last bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Erasing {
    /// How many images lose a box: 0.5 in the paper.
    pub probability: CurveConfig,
    /// The smallest and the largest share of the image: 0.02 and 0.4 in the paper.
    #[serde(default = "area")]
    pub area: [f64; 2],
    /// The smallest and the largest height over width: 0.3 and 1 / 0.3 in the paper.
    #[serde(default = "aspect")]
    pub aspect: [f64; 2],
    /// What stands in the box.
    #[serde(default = "fill")]
    pub fill: Fill,
}

fn area() -> [f64; 2] {
    [0.02, 0.4]
}

fn aspect() -> [f64; 2] {
    [0.3, 1.0 / 0.3]
}

fn fill() -> Fill {
    Fill::Uniform
}

impl Erasing {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        check_probability(&self.probability)?;
        check_rising("area", self.area, 0.0, 1.0)?;
        check_rising("aspect", self.aspect, 1e-3, 1e3)
    }
}

impl Augment for Erasing {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 {
            return batch;
        }
        let x = &batch.x_start;
        let (h, w) = (x.size()[2] as f64, x.size()[3] as f64);
        let rows = picked(x, probability);
        let area = uniform(x, self.area[0], self.area[1]) * (h * w);
        let aspect = uniform(x, self.aspect[0], self.aspect[1]);
        let height = (&area * &aspect).sqrt().round().clamp(1.0, h);
        let width = (area / aspect).sqrt().round().clamp(1.0, w);
        let start = |side: f64, length: &Tensor| {
            let room: Tensor = side + 1.0 - length;
            (uniform(x, 0.0, 1.0) * &room).floor().minimum(&(room - 1.0))
        };
        let (top, left) = (start(h, &height), start(w, &width));
        let boxes = Tensor::stack(&[top, left, height, width], 1).to_kind(Kind::Int64);
        let fill = match self.fill {
            Fill::Zeros => x.zeros_like(),
            Fill::Uniform => x.rand_like() * 2.0 - 1.0,
            Fill::Gaussian => x.randn_like(),
        };
        batch.x_start = only(&rows, &erase(x, &boxes, &fill), x);
        batch
    }
}
