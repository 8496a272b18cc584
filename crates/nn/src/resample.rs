//! Halving and doubling the resolution.

use crate::layers::conv2d;
use tch::{Tensor, nn};

/// Convolution of stride 2: `[B, C, H, W] -> [B, C, H/2, W/2]`. diffusers' `Downsample2D`.
#[derive(Debug)]
pub struct Downsample(nn::Conv2D);

impl Downsample {
    /// Under `vs`: `conv`.
    pub fn new(vs: &nn::Path<'_>, channels: i64) -> Self {
        Self(conv2d(&(vs / "conv"), channels, channels, 3, 2))
    }

    /// `[B, C, H, W] -> [B, C, H/2, W/2]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        x.apply(&self.0)
    }
}

/// Nearest neighbour and a convolution: `[B, C, H, W] -> [B, C, 2H, 2W]`. diffusers' `Upsample2D`.
#[derive(Debug)]
pub struct Upsample(nn::Conv2D);

impl Upsample {
    /// Under `vs`: `conv`.
    pub fn new(vs: &nn::Path<'_>, channels: i64) -> Self {
        Self(conv2d(&(vs / "conv"), channels, channels, 3, 1))
    }

    /// `[B, C, H, W] -> [B, C, 2H, 2W]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        x.upsample_nearest2d([size[2] * 2, size[3] * 2], None, None).apply(&self.0)
    }
}
