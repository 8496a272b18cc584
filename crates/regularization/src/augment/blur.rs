//! Images and latents out of focus.

use super::pick::{always, check_probability, check_rising, only, picked, uniform};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// `x` `[B, C, H, W]` under a Gaussian of standard deviation `sigma` `[B]`, in pixels, cut off at `kernel` pixels (odd) and
/// scaled to the sum 1; reflected beyond the edges. One direction after the other.
pub fn gaussian_blur(x: &Tensor, sigma: &Tensor, kernel: i64) -> Tensor {
    let size = x.size();
    let (b, c, half) = (size[0], size[1], kernel / 2);
    let place = Tensor::arange(kernel, (Kind::Float, x.device())) - half as f64;
    // A sigma of 0 is the image itself.
    let scaled = place / sigma.to_kind(Kind::Float).clamp_min(1e-6).unsqueeze(1);
    let weights = (scaled.square() * -0.5).softmax(1, Kind::Float).to_kind(x.kind()); // [B, kernel]
    let weights = weights.repeat_interleave_self_int(c, 0, b * c);
    let padded = x.pad([half; 4], "reflect", None).view([1, b * c, size[2] + 2 * half, size[3] + 2 * half]);
    let across = |x: &Tensor, shape: [i64; 4]| {
        let weights = weights.view(shape);
        x.conv2d(&weights, None::<Tensor>, 1, 0, 1, b * c)
    };
    let rows = across(&padded, [b * c, 1, kernel, 1]);
    across(&rows, [b * c, 1, 1, kernel]).view(size.as_slice())
}

/// Blurs images or latents by a Gaussian of uniform standard deviation; `[B, C, H, W]`.
///
/// Not meant for partly known data: it mixes what is unknown into what is known. Law: rows that are not picked stay, to the
/// last bit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GaussianBlur {
    /// How many images are blurred.
    #[serde(default = "always")]
    pub probability: CurveConfig,
    /// The smallest and the largest standard deviation, in pixels.
    pub sigma: [f64; 2],
    /// Pixels of the kernel, odd; three standard deviations to each side if absent.
    #[serde(default)]
    pub kernel: Option<i64>,
}

impl GaussianBlur {
    /// Whether the settings can be honoured for images of `[C, H, W]`.
    pub fn check(&self, [_, h, w]: [i64; 3]) -> Result<()> {
        check_probability(&self.probability)?;
        check_rising("sigma", self.sigma, 0.0, f64::MAX)?;
        let kernel = self.width();
        if kernel % 2 == 1 && kernel > 0 && kernel / 2 < h.min(w) {
            return Ok(());
        }
        let reason = format!(
            "{kernel} is not an odd number of pixels, at most {}, for a {h}x{w} image",
            2 * h.min(w) - 1
        );
        Err(Error::config("kernel", reason))
    }

    fn width(&self) -> i64 {
        self.kernel.unwrap_or(2 * (3.0 * self.sigma[1]).ceil() as i64 + 1)
    }
}

impl Augment for GaussianBlur {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 || self.sigma[1] == 0.0 {
            return batch;
        }
        let x = &batch.x_start;
        let rows = picked(x, probability);
        let sigma = uniform(x, self.sigma[0], self.sigma[1]);
        batch.x_start = only(&rows, &gaussian_blur(x, &sigma, self.width()), x);
        batch
    }
}
