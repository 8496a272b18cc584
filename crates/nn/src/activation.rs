//! Pointwise functions.

use crate::tally;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A pointwise function, by diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(x)`; Elfwing et al. 2018.
    #[default]
    #[serde(alias = "swish")]
    Silu,
    /// `x Phi(x)`; Hendrycks and Gimpel 2016.
    Gelu,
    /// `x tanh(softplus(x))`; Misra 2019.
    Mish,
    /// `max(x, 0)`.
    Relu,
}

impl Activation {
    /// Of every number.
    pub fn apply(self, x: &Tensor) -> Tensor {
        let out = match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
            Self::Mish => x.mish(),
            Self::Relu => tally::shaped(x, &x.size()).unwrap_or_else(|| x.relu()),
        };
        tally::kept(&out);
        out
    }
}
