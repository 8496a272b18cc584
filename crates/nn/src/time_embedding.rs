//! The noise level as a vector.

use crate::layers::linear;
use tch::{Kind, Tensor, nn};

/// `[cos(level w_i), sin(level w_i)]` with frequencies from 1 down to about 1/10000: `[B] -> [B, width]`, f32.
///
/// Vaswani et al. 2017, section 3.5, cosines first, as diffusers' `Timesteps(flip_sin_to_cos=True, freq_shift=0)`.
/// `width` is even.
pub fn sinusoidal(level: &Tensor, width: i64) -> Tensor {
    let half = width / 2;
    let exponent = Tensor::arange(half, (Kind::Float, level.device())) * (-(10_000f64.ln()) / half as f64);
    let angle = level.to_kind(Kind::Float).unsqueeze(1) * exponent.exp(); // [B, half]
    Tensor::cat(&[angle.cos(), angle.sin()], 1)
}

/// Sinusoids, then two linear layers with a SiLU between: `[B] -> [B, out]`.
///
/// Ho et al. 2020, appendix B; parameter names of diffusers' `TimestepEmbedding`.
#[derive(Debug)]
pub struct TimeEmbedding {
    width: i64,
    linear_1: nn::Linear,
    linear_2: nn::Linear,
}

impl TimeEmbedding {
    /// Under `vs`: `linear_1`, `linear_2`.
    pub fn new(vs: &nn::Path<'_>, width: i64, out: i64) -> Self {
        Self {
            width,
            linear_1: linear(&(vs / "linear_1"), width, out),
            linear_2: linear(&(vs / "linear_2"), out, out),
        }
    }

    /// `c_noise` `[B]` to `[B, out]` in the kind of the weights.
    pub fn forward(&self, level: &Tensor) -> Tensor {
        let kind = self.linear_1.ws.kind();
        sinusoidal(level, self.width).to_kind(kind).apply(&self.linear_1).silu().apply(&self.linear_2)
    }
}
