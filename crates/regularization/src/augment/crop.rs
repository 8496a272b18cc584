//! Another part of an image that goes on beyond its edges.

use super::pick::{always, check_probability, geometric, picked};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What `x` `[B, C, H, W]`, reflected beyond its edges, shows `down` and `right` `[B]`, `Int64`, pixels on: of the same
/// shape. Exact; the shifts are smaller than the sides.
pub fn crop(x: &Tensor, down: &Tensor, right: &Tensor) -> Tensor {
    let size = x.size();
    let (b, c, h, w) = (size[0], size[1], size[2], size[3]);
    let (rows, columns) = (reflected(down, h), reflected(right, w)); // [B, H], [B, W]
    let from = rows.unsqueeze(2) * w + columns.unsqueeze(1); // [B, H, W]
    let from = from.view([b, 1, h * w]).expand([b, c, h * w], false);
    x.flatten(2, -1).gather(2, &from, false).view([b, c, h, w])
}

/// The places `shift..shift + side` `[B, side]` after reflection at the first and at the last.
fn reflected(shift: &Tensor, side: i64) -> Tensor {
    let place = shift.unsqueeze(1) + Tensor::arange(side, (Kind::Int64, shift.device()));
    (side - 1) - ((side - 1) - place.abs()).abs()
}

/// Pads by reflection and cuts the old size at a random place; `[B, C, H, W]`. He et al. 2016, section 4.2, where the
/// padding is zeros.
///
/// Masks and hints go along, hints of a multiple of the size by that multiple of pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Crop {
    /// How many images are cut.
    #[serde(default = "always")]
    pub probability: CurveConfig,
    /// Pixels on every side, at least 1 and smaller than the sides of the image.
    pub padding: i64,
}

impl Crop {
    /// Whether the settings can be honoured for images of `[C, H, W]`.
    pub fn check(&self, [_, h, w]: [i64; 3]) -> Result<()> {
        check_probability(&self.probability)?;
        if (1..h.min(w)).contains(&self.padding) {
            return Ok(());
        }
        let reason = format!("{} is not from 1 to below the sides of a {h}x{w} image", self.padding);
        Err(Error::config("padding", reason))
    }
}

impl Augment for Crop {
    fn augment(&mut self, batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 {
            return batch;
        }
        let x = &batch.x_start;
        let rows = picked(x, probability).to_kind(Kind::Int64);
        let shift = || {
            let range = (-self.padding, self.padding + 1);
            Tensor::randint_low(range.0, range.1, [x.size()[0]], (Kind::Int64, x.device())) * &rows
        };
        let (down, right, height) = (shift(), shift(), x.size()[2]);
        geometric(batch, |x| {
            let pixels = (x.size()[2] / height).max(1);
            crop(x, &(&down * pixels), &(&right * pixels))
        })
    }
}
