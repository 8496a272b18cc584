//! The residual block of diffusion UNets.

use crate::layers::{conv2d, group_norm, linear};
use tch::{Tensor, nn};

/// Sizes of a [`ResBlock`].
#[derive(Debug, Clone, Copy)]
pub struct ResBlockShape {
    /// Channels in.
    pub from: i64,
    /// Channels out.
    pub to: i64,
    /// Width of the time embedding.
    pub embedding: i64,
    /// Groups of the norms; divides `from` and `to`.
    pub norm_groups: i64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Probability of zeroing before the second convolution.
    pub dropout: f64,
}

/// Norm, SiLU, convolution, plus the time embedding, norm, SiLU, dropout, convolution, plus the input.
///
/// Ho et al. 2020, appendix B; parameter names of diffusers' `ResnetBlock2D`.
#[derive(Debug)]
pub struct ResBlock {
    norm1: nn::GroupNorm,
    conv1: nn::Conv2D,
    time_emb_proj: nn::Linear,
    norm2: nn::GroupNorm,
    conv2: nn::Conv2D,
    conv_shortcut: Option<nn::Conv2D>,
    dropout: f64,
}

impl ResBlock {
    /// Under `vs`: `norm1`, `conv1`, `time_emb_proj`, `norm2`, `conv2` and, where the channels differ, `conv_shortcut`.
    pub fn new(vs: &nn::Path<'_>, shape: ResBlockShape) -> Self {
        let ResBlockShape { from, to, embedding, norm_groups, norm_eps, dropout } = shape;
        Self {
            norm1: group_norm(&(vs / "norm1"), norm_groups, from, norm_eps),
            conv1: conv2d(&(vs / "conv1"), from, to, 3, 1),
            time_emb_proj: linear(&(vs / "time_emb_proj"), embedding, to),
            norm2: group_norm(&(vs / "norm2"), norm_groups, to, norm_eps),
            conv2: conv2d(&(vs / "conv2"), to, to, 3, 1),
            conv_shortcut: (from != to).then(|| conv2d(&(vs / "conv_shortcut"), from, to, 1, 1)),
            dropout,
        }
    }

    /// `x` `[B, from, H, W]`, `activated` `[B, embedding]` (the time embedding after SiLU, which all blocks of a
    /// network share) to `[B, to, H, W]`.
    pub fn forward(&self, x: &Tensor, activated: &Tensor, train: bool) -> Tensor {
        let h = x.apply(&self.norm1).silu().apply(&self.conv1); // [B, to, H, W]
        let h = h + activated.apply(&self.time_emb_proj).unsqueeze(-1).unsqueeze(-1);
        let mut h = h.apply(&self.norm2).silu();
        if self.dropout > 0.0 {
            h = h.dropout(self.dropout, train);
        }
        let h = h.apply(&self.conv2);
        match &self.conv_shortcut {
            Some(shortcut) => x.apply(shortcut) + h,
            None => x + h,
        }
    }
}
