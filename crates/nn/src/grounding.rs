//! Layers of grounded generation (Li et al. 2023, GLIGEN) that a model carries: without boxes, which are no input here, they
//! change nothing, and the model is the one that it was made from. They are loaded and saved with it.

use crate::attention::{Attention, AttentionShape};
use crate::feed_forward::{FeedForward, FeedForwardKind};
use crate::layers::{LayerNorm, Linear, ZERO, variable};
use tch::{Tensor, nn};

/// What the boxes of a grounded model are described by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grounding {
    /// Text.
    Text,
    /// Text and images.
    TextImage,
}

/// The gated self-attention of a transformer block.
#[derive(Debug)]
pub(crate) struct Fuser {
    _linear: Linear,
    _attn: Attention,
    _ff: FeedForward,
    _norms: [LayerNorm; 2],
    _alphas: [Tensor; 2],
}

impl Fuser {
    pub(crate) fn new(vs: &nn::Path<'_>, channels: i64, context: i64, heads: i64) -> Self {
        let shape = AttentionShape::new(channels, heads, channels / heads, false);
        let geglu = FeedForwardKind::Geglu;
        Self {
            _linear: Linear::new(&(vs / "linear"), context, channels),
            _attn: Attention::new(&(vs / "attn"), shape, Linear::with_bias),
            _ff: FeedForward::new(&(vs / "ff"), geglu, channels, 4 * channels, 0.0, Linear::with_bias),
            _norms: ["norm1", "norm2"].map(|n| LayerNorm::new(&(vs / n), channels, 1e-5)),
            _alphas: ["alpha_attn", "alpha_dense"].map(|n| variable(vs, n, &[], ZERO)),
        }
    }
}

/// The embedding of boxes.
#[derive(Debug)]
pub struct PositionNet {
    _linears: Vec<Linear>,
    _nulls: Vec<Tensor>,
}

/// Sines and cosines of eight frequencies for the four sides of a box.
const BOX: i64 = 8 * 2 * 4;
/// Width of its layers.
const WIDE: i64 = 512;

impl PositionNet {
    /// Under `vs`: `linears` or `linears_text` and `linears_image`, and the features of nothing.
    pub fn new(vs: &nn::Path<'_>, grounding: Grounding, feature: i64, out: i64) -> Self {
        let (layers, features): (&[&str], &[&str]) = match grounding {
            Grounding::Text => (&["linears"], &["null_positive_feature"]),
            Grounding::TextImage => {
                (&["linears_text", "linears_image"], &["null_text_feature", "null_image_feature"])
            }
        };
        let widths = [(0, feature + BOX, WIDE), (2, WIDE, WIDE), (4, WIDE, out)];
        let linears = layers
            .iter()
            .flat_map(|name| widths.map(|(i, from, to)| Linear::new(&(vs / *name / i), from, to)));
        let nulls = features.iter().map(|name| variable(vs, name, &[feature], ZERO));
        let place = variable(vs, "null_position_feature", &[BOX], ZERO);
        Self { _linears: linears.collect(), _nulls: nulls.chain([place]).collect() }
    }
}
