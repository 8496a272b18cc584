//! Halving and doubling the resolution.

use crate::layers::Conv2d;
use crate::tally;
use tch::{Tensor, nn};

/// Convolution of stride 2: `[B, C, H, W] -> [B, C, H/2, W/2]`. diffusers' `Downsample2D`.
#[derive(Debug)]
pub struct Downsample {
    conv: Conv2d,
    /// With no padding of its own the convolution gets a row and a column of zeros at the far ends.
    pad_far_ends: bool,
}

impl Downsample {
    /// Under `vs`: `conv`.
    pub fn new(vs: &nn::Path<'_>, channels: i64, padding: i64) -> Self {
        let conv = Conv2d::padded(&(vs / "conv"), channels, channels, 3, 2, padding);
        Self { conv, pad_far_ends: padding == 0 }
    }

    /// `[B, C, H, W] -> [B, C, H/2, W/2]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if self.pad_far_ends {
            self.conv.forward(&x.constant_pad_nd([0, 1, 0, 1]))
        } else {
            self.conv.forward(x)
        }
    }
}

/// Nearest neighbour and a convolution: `[B, C, H, W] -> [B, C, 2H, 2W]`. diffusers' `Upsample2D`.
#[derive(Debug)]
pub struct Upsample(Conv2d);

impl Upsample {
    /// Under `vs`: `conv`.
    pub fn new(vs: &nn::Path<'_>, channels: i64) -> Self {
        Self(Conv2d::new(&(vs / "conv"), channels, channels, 3, 1))
    }

    /// `[B, C, H, W] -> [B, C, h, w]`: to twice the size, or to that of the skip connection that comes next.
    pub fn forward(&self, x: &Tensor, to: Option<[i64; 2]>) -> Tensor {
        let size = x.size();
        let to = to.unwrap_or([size[2] * 2, size[3] * 2]);
        self.0.forward(&x.upsample_nearest2d(to, None, None))
    }
}

/// Resampling without weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resample {
    /// None.
    #[default]
    Keep,
    /// Means of four pixels.
    Mean,
    /// Nearest neighbour.
    Nearest,
    /// Halving by the low-pass filter 1, 3, 3, 1; Karras et al. 2020, as in NCSN++ (Song et al. 2021, section 4.1).
    FirDown,
    /// Doubling by the same filter.
    FirUp,
    /// Halving by the same filter with mirrored borders, as in k-diffusion.
    MirroredDown,
    /// Doubling by the same filter with mirrored borders, as in k-diffusion.
    MirroredUp,
}

impl Resample {
    /// What becomes of the sides of an image.
    fn sides(self, sides: [i64; 2]) -> [i64; 2] {
        match self {
            Self::Keep => sides,
            Self::Mean | Self::FirDown | Self::MirroredDown => sides.map(|n| n / 2),
            Self::Nearest | Self::FirUp | Self::MirroredUp => sides.map(|n| n * 2),
        }
    }

    /// `[B, C, H, W]`.
    pub fn forward(self, x: &Tensor) -> Tensor {
        let size = x.size();
        let [height, width] = self.sides([size[2], size[3]]);
        if let Some(out) = tally::shaped(x, &[size[0], size[1], height, width]) {
            tally::kept(&out);
            return out;
        }
        let out = match self {
            Self::Keep => return x.shallow_clone(),
            Self::Mean => x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>),
            Self::Nearest => x.upsample_nearest2d([size[2] * 2, size[3] * 2], None, None),
            Self::FirDown => filter_down(&x.constant_pad_nd([1, 1, 1, 1])),
            Self::FirUp => filter_up(x, 1),
            Self::MirroredDown => filter_down(&x.reflection_pad2d([1, 1, 1, 1])),
            Self::MirroredUp => filter_up(&x.reflection_pad2d([1, 1, 1, 1]), 3),
        };
        tally::kept(&out);
        out
    }
}

/// The filter 1, 3, 3, 1 over each channel, both ways: `[C, 1, 4, 4]`.
fn kernel(x: &Tensor, gain: f64) -> Tensor {
    let taps = Tensor::from_slice(&[1.0f32, 3.0, 3.0, 1.0]);
    let kernel = taps.outer(&taps) / 64.0 * gain;
    tally::same_place(kernel, x).expand([x.size()[1], 1, 4, 4], false)
}

/// Every second place of the filtered images.
fn filter_down(x: &Tensor) -> Tensor {
    x.conv2d(&kernel(x, 1.0), None::<Tensor>, [2, 2], [0, 0], [1, 1], x.size()[1])
}

/// Filters the images with zeros between their places, and cuts `cut` off each side.
fn filter_up(x: &Tensor, cut: i64) -> Tensor {
    x.conv_transpose2d(&kernel(x, 4.0), None::<Tensor>, [2, 2], [cut, cut], [0, 0], x.size()[1], [1, 1])
}
