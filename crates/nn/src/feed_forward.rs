//! The layers between two attentions.

use crate::attention::MakeLinear;
use crate::layers::Linear;
use crate::tally;
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

/// What stands between the two linear layers of a [`FeedForward`], by diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FeedForwardKind {
    /// `gelu(x W)`.
    Gelu,
    /// The same with the tanh approximation.
    GeluApproximate,
    /// `(x V) gelu(x W)`; Shazeer 2020, Eq. 6.
    Geglu,
    /// `x W sigmoid(1.702 x W)`: an approximate GELU without a gate, whatever its name says.
    GegluApproximate,
    /// `(x V) silu(x W)`; Shazeer 2020, Eq. 6.
    Swiglu,
    /// `silu(x W)`.
    LinearSilu,
}

impl FeedForwardKind {
    fn is_gated(self) -> bool {
        matches!(self, Self::Geglu | Self::Swiglu)
    }
}

/// Linear, activation or gate, linear: `[.., C] -> [.., C]`.
#[derive(Debug)]
pub struct FeedForward {
    kind: FeedForwardKind,
    project: Linear,
    out: Linear,
    dropout: f64,
}

impl FeedForward {
    /// Under `vs`: `net.0.proj`, `net.2`; `inner` is the width between.
    pub fn new(
        vs: &nn::Path<'_>,
        kind: FeedForwardKind,
        channels: i64,
        inner: i64,
        dropout: f64,
        make: MakeLinear,
    ) -> Self {
        let wide = if kind.is_gated() { 2 * inner } else { inner };
        Self {
            kind,
            project: make(&(vs / "net" / 0 / "proj"), channels, wide, true),
            out: make(&(vs / "net" / 2), inner, channels, true),
            dropout,
        }
    }

    /// `[.., C] -> [.., C]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let h = self.project.forward(x);
        let gated = |act: fn(&Tensor) -> Tensor| {
            let halves = h.chunk(2, -1);
            &halves[0] * act(&halves[1])
        };
        let h = match self.kind {
            FeedForwardKind::Gelu => h.gelu("none"),
            FeedForwardKind::GeluApproximate => {
                tally::shaped(&h, &h.size()).unwrap_or_else(|| heldout_torch_ext::gelu_tanh(&h))
            }
            FeedForwardKind::Geglu => gated(|gate| gate.gelu("none")),
            FeedForwardKind::GegluApproximate => &h * (&h * 1.702).sigmoid(),
            FeedForwardKind::Swiglu => gated(Tensor::silu),
            FeedForwardKind::LinearSilu => h.silu(),
        };
        tally::kept(&h);
        self.out.forward(&drop_out(h, self.dropout, train))
    }
}

/// Dropout where there is any.
pub(crate) fn drop_out(x: Tensor, probability: f64, train: bool) -> Tensor {
    if probability > 0.0 && train { x.dropout(probability, true) } else { x }
}
