//! A small convolutional critic.

use heldout_nn::{
    Activation, Conv2d, Embedded, Linear, MlpOptions, ResBlock, ResBlockShape, Resample, TimeEmbedding,
    TimeEmbeddingConfig,
};
use tch::{Tensor, nn};

/// Says of images at a noise level how real they look: `[B, C, H, W]` and `[B]` to scores `[B]`.
///
/// Residual blocks that halve the image down to 4 pixels; the noise level enters each by sinusoids and an MLP. Norms
/// are over a single example (one group), since a gradient penalty is about every input apart: Gulrajani et al. 2017,
/// section 4.
///
/// Law: no row sees another.
#[derive(Debug)]
pub struct Discriminator {
    time: TimeEmbedding,
    conv_in: Conv2d,
    blocks: Vec<ResBlock>,
    head: Linear,
}

impl Discriminator {
    /// For images of `shape` `[C, H, W]`; one block for each of `widths`, of which there is at least one.
    pub fn new(vs: &nn::Path<'_>, [channels, height, width]: [i64; 3], widths: &[i64]) -> Self {
        let first = widths.first().copied().unwrap_or(channels);
        let embedding = 2 * first;
        let (config, options) = (TimeEmbeddingConfig::default(), MlpOptions::default());
        let (mut from, mut side) = (first, height.min(width));
        let mut block = |(i, &to): (usize, &i64)| {
            let mut shape = ResBlockShape::new(from, to, embedding, 1, 1e-5);
            if side >= 8 {
                shape.resample = Resample::Mean;
                side /= 2;
            }
            from = to;
            ResBlock::new(&(vs / "blocks" / i), shape)
        };
        let blocks: Vec<ResBlock> = widths.iter().enumerate().map(&mut block).collect();
        Self {
            time: TimeEmbedding::new(
                &(vs / "time_proj"),
                &(vs / "time"),
                &config,
                [first, embedding],
                options,
            ),
            conv_in: Conv2d::new(&(vs / "conv_in"), channels, first, 3, 1),
            blocks,
            head: Linear::new(&(vs / "head"), widths.last().copied().unwrap_or(first), 1),
        }
    }

    /// `x` `[B, C, H, W]`, `t` `[B]` to `[B]`.
    pub fn forward(&self, x: &Tensor, t: &Tensor) -> Tensor {
        let embedded = Embedded::new(self.time.forward(t, None), Activation::Silu);
        let h = self.conv_in.forward(x);
        let h = self.blocks.iter().fold(h, |h, block| block.forward(&h, &embedded, true));
        let pooled = h.silu().mean_dim([2i64, 3].as_slice(), false, h.kind());
        self.head.forward(&pooled).squeeze_dim(1)
    }
}
