//! Scales, shifts and gates that follow a condition; Perez et al. 2018; Peebles and Xie 2023, section 3.2.

use crate::layers::{LayerNorm, RmsNorm};
use crate::tally;
use tch::Tensor;

/// A norm whose scale and shift come from a condition.
#[derive(Debug)]
pub enum ModulatedNorm {
    /// Layer norm.
    Layer(LayerNorm),
    /// Root mean square.
    Rms(RmsNorm),
}

impl ModulatedNorm {
    /// `norm(x) (1 + scale) + shift`, of `x` `[B, L, C]`, `shift` and `scale` `[B, C]`.
    pub fn forward(&self, x: &Tensor, shift: &Tensor, scale: &Tensor) -> Tensor {
        match self {
            Self::Layer(norm) => norm.modulated(x, shift, scale),
            Self::Rms(norm) => norm.forward(x) * (scale.unsqueeze(1) + 1.0) + shift.unsqueeze(1),
        }
    }
}

/// `x + gate h`, of `x` and `h` `[B, L, C]`, `gate` `[B, C]`.
pub fn gated(x: &Tensor, gate: &Tensor, h: &Tensor) -> Tensor {
    tally::shaped(x, &x.size()).unwrap_or_else(|| heldout_torch_ext::gated_residual(x, gate, h))
}
