//! Self-attention over the places of an image.

use crate::layers::{group_norm, linear};
use tch::{Device, Tensor, nn};

/// Heads up to this width give libtorch's blockwise CPU kernel little arithmetic for its bookkeeping: two batched products
/// make a whole training step about a tenth faster, for more memory; wider ones, and larger score matrices, it does better
/// (`cargo bench -p heldout-nn`, `-p heldout-unet`; docs/log.md has the figures).
const SMALL_HEAD: i64 = 8;
/// Numbers in the score matrix up to which that holds.
const CPU_SCORES: i64 = 1 << 24;

/// `softmax(q k^T / sqrt(D)) v` for `[B, heads, L, D]`; Vaswani et al. 2017, Eq. 1.
///
/// Picks the kernel by shape and device: the choice is a function of both, so that a run stays reproducible.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let size = q.size();
    let (batch, heads, length, width) = (size[0], size[1], size[2], size[3]);
    let scores = batch * heads * length * k.size()[2];
    if q.device() != Device::Cpu || width > SMALL_HEAD || scores > CPU_SCORES {
        return Tensor::scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, false, None, false);
    }
    let scaled = q * (width as f64).powf(-0.5);
    scaled.matmul(&k.transpose(-2, -1)).softmax(-1, q.kind()).matmul(v)
}

/// Norm, self-attention over `H * W` tokens, projection, plus the input.
///
/// Parameter names of diffusers' `Attention` as its `UNet2DModel` uses it.
#[derive(Debug)]
pub struct SelfAttention {
    group_norm: nn::GroupNorm,
    to_q: nn::Linear,
    to_k: nn::Linear,
    to_v: nn::Linear,
    to_out: nn::Linear,
    heads: i64,
}

impl SelfAttention {
    /// Under `vs`: `group_norm`, `to_q`, `to_k`, `to_v`, `to_out.0`; `head_dim` and `norm_groups` divide `channels`.
    pub fn new(vs: &nn::Path<'_>, channels: i64, head_dim: i64, norm_groups: i64, norm_eps: f64) -> Self {
        let project = |path: nn::Path<'_>| linear(&path, channels, channels);
        Self {
            group_norm: group_norm(&(vs / "group_norm"), norm_groups, channels, norm_eps),
            to_q: project(vs / "to_q"),
            to_k: project(vs / "to_k"),
            to_v: project(vs / "to_v"),
            to_out: project(vs / "to_out" / 0),
            heads: channels / head_dim,
        }
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let size = x.size();
        let (batch, channels, places) = (size[0], size[1], size[2] * size[3]);
        let tokens = x.apply(&self.group_norm).view([batch, channels, places]).transpose(1, 2); // [B, L, C]
        let split = |projection: &nn::Linear| {
            let h = tokens.apply(projection).view([batch, places, self.heads, channels / self.heads]);
            h.transpose(1, 2) // [B, heads, L, D]
        };
        let h = attend(&split(&self.to_q), &split(&self.to_k), &split(&self.to_v));
        let h = h.transpose(1, 2).reshape([batch, places, channels]).apply(&self.to_out);
        x + h.transpose(1, 2).reshape(size)
    }
}
