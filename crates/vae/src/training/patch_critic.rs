//! A critic that judges patches of an image, each for itself.

use heldout_core::{Error, Result};
use heldout_nn::{Conv2d, GroupNorm, ZERO};
use tch::nn::Init;
use tch::{Tensor, nn};

/// Slope of the activation below 0.
const SLOPE: f64 = 0.2;
/// How convolutions start: Isola et al. 2017, appendix 6.2.
const START: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// Says of every patch of an image how real it looks: `[B, C, H, W] -> [B, 1, h, w]`.
///
/// Isola et al. 2017, appendix 6.1.2: convolutions of kernel 4, `layers` of them with stride 2, then two with stride 1; leaky
/// ReLU. Their batch norm lets rows see each other, and real images would be told by their batch; here the norm is over each
/// image for itself (one group), as in the critic of diffused images.
///
/// Law: no row sees another.
#[derive(Debug)]
pub struct PatchCritic {
    first: Conv2d,
    normed: Vec<(Conv2d, GroupNorm)>,
    last: Conv2d,
}

impl PatchCritic {
    /// Under `vs`: `first`, `layers.I.conv`, `layers.I.norm`, `last`; the first convolution has `width` channels, each next
    /// one twice as many up to 8 times.
    pub fn new(vs: &nn::Path<'_>, channels: i64, layers: u32, width: i64) -> Self {
        let conv = |vs: &nn::Path<'_>, from: i64, to: i64, stride: i64, bias: bool| {
            Conv2d::start(vs, [from, to, 4, stride], 1, START, bias.then_some(ZERO))
        };
        let wide = |i: u32| width * (1 << i.min(3));
        let normed = (1..=layers).map(|i| {
            let vs = vs / "layers" / (i - 1);
            let stride = if i < layers { 2 } else { 1 };
            let conv = conv(&(&vs / "conv"), wide(i - 1), wide(i), stride, false);
            (conv, GroupNorm::new(&(&vs / "norm"), 1, wide(i), 1e-5))
        });
        Self {
            first: conv(&(vs / "first"), channels, width, 2, true),
            normed: normed.collect(),
            last: conv(&(vs / "last"), wide(layers), 1, 1, true),
        }
    }

    /// Which field cannot be honoured for images of `height` by `width`.
    pub(crate) fn check(layers: u32, [height, width]: [i64; 2]) -> Result<()> {
        let side = height.min(width);
        if layers == 0 || layers > 6 {
            return Err(Error::config("layers", format!("{layers}: 1 to 6 are possible")));
        }
        if side >> layers < 3 {
            let reason = format!(
                "{layers} need images of at least {} pixels a side, these have {side}: fewer layers fit",
                3 << layers
            );
            return Err(Error::config("layers", reason));
        }
        Ok(())
    }

    /// `[B, C, H, W] -> [B, 1, h, w]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let leaky = |h: Tensor| h.maximum(&(&h * SLOPE));
        let h = leaky(self.first.forward(x));
        let h = self.normed.iter().fold(h, |h, (conv, norm)| leaky(norm.forward(&conv.forward(&h))));
        self.last.forward(&h)
    }
}
