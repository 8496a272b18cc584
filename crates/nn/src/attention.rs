//! Attention over tokens.

use crate::layers::{LayerNorm, Linear, RmsNorm};
use crate::{Rotary, tally};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// `softmax(q k^T / sqrt(D)) v` for `[B, heads, L, D]`; Vaswani et al. 2017, Eq. 1.
///
/// The kernel is a function of shape, kind and device, so that a run stays reproducible ([`heldout_torch_ext::attend`]).
/// `bias` `[B, 1, 1, K]` is added to the scores.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let keys = k.size()[2];
    let out = tally::shaped(q, &q.size()).unwrap_or_else(|| kernel(q, k, v, bias));
    tally::attention(&out, keys);
    out
}

/// [`attend`] by two products with the softmax in f32 whatever the precision, as diffusers pools a text.
pub fn attend_in_f32(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let scores = (q * (q.size()[3] as f64).powf(-0.5)).matmul(&k.transpose(-2, -1));
    let out = scores.softmax(-1, Kind::Float).to_kind(v.kind()).matmul(v);
    tally::attention(&out, k.size()[2]);
    out
}

fn kernel(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let Some(bias) = bias else { return heldout_torch_ext::attend(q, k, v) };
    let size = q.size();
    let bias = bias.expand([size[0], size[1], size[2], k.size()[2]], false);
    Tensor::scaled_dot_product_attention(q, k, v, Some(bias), 0.0, false, None, false)
}

/// `[B, L, C] -> [B, heads, L, C / heads]`.
pub(crate) fn split_heads(x: &Tensor, heads: i64) -> Tensor {
    let size = x.size();
    x.unflatten(2, [heads, size[2] / heads]).transpose(1, 2)
}

/// The way back.
pub(crate) fn join_heads(x: &Tensor) -> Tensor {
    let size = x.size();
    x.transpose(1, 2).reshape([size[0], size[2], size[1] * size[3]])
}

/// What a mask of 1 and 0 `[B, K]` adds to the scores, `[B, 1, 1, K]`: 0 or -10000, as diffusers has it.
pub fn mask_bias(mask: &Tensor, like: &Tensor) -> Tensor {
    ((mask.to_kind(like.kind()) - 1.0) * 10_000.0).unsqueeze(1).unsqueeze(1)
}

/// Whether and where the time embedding enters an attention layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimeAttention {
    /// Nowhere: attention sees time through its tokens alone.
    #[default]
    None,
    /// Queries, keys and values are each linear in the token plus linear in the time embedding: the time-dependent
    /// self-attention of DiffiT, Hatamizadeh et al. 2024, Eq. 3 to 5.
    All,
    /// Time enters the query alone.
    Query,
}

/// A norm of queries and keys, per head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum QkNorm {
    /// None.
    #[default]
    None,
    /// Root mean square; Henry et al. 2020 with learned scales.
    Rms,
    /// Layer norm; Dehghani et al. 2023.
    Layer,
}

/// Sizes of an [`Attention`].
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Width of the tokens that ask.
    pub channels: i64,
    /// Width of the tokens that are asked, where these are others.
    pub context: Option<i64>,
    /// How many heads.
    pub heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Whether queries, keys and values have a bias.
    pub bias: bool,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Where time enters, and the width of its embedding.
    pub time: (TimeAttention, i64),
}

impl AttentionShape {
    /// Plain attention of tokens among themselves.
    pub fn new(channels: i64, heads: i64, head_dim: i64, bias: bool) -> Self {
        let (qk_norm, time) = (QkNorm::None, (TimeAttention::None, 0));
        Self { channels, context: None, heads, head_dim, bias, qk_norm, time }
    }
}

/// What an attention layer sees besides its tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionInput<'a> {
    /// The tokens that are asked, `[B, K, context]`; the layer's own if absent.
    pub context: Option<&'a Tensor>,
    /// Added to the scores, `[B, 1, 1, K]`: see [`mask_bias`].
    pub bias: Option<&'a Tensor>,
    /// The time embedding, `[B, E]`.
    pub time: Option<&'a Tensor>,
    /// Turns queries and keys by their places.
    pub rotary: Option<&'a Rotary>,
}

#[derive(Debug)]
enum HeadNorm {
    None,
    Rms(RmsNorm),
    Layer(LayerNorm),
}

impl HeadNorm {
    fn new(vs: &nn::Path<'_>, kind: QkNorm, head_dim: i64) -> Self {
        match kind {
            QkNorm::None => Self::None,
            QkNorm::Rms => Self::Rms(RmsNorm::new(vs, head_dim, 1e-6)),
            QkNorm::Layer => Self::Layer(LayerNorm::new(vs, head_dim, 1e-6)),
        }
    }

    fn forward(&self, x: Tensor) -> Tensor {
        match self {
            Self::None => x,
            Self::Rms(norm) => norm.forward(&x),
            Self::Layer(norm) => norm.forward(&x),
        }
    }
}

/// Projections to queries, keys and values, attention, and a projection back.
///
/// Parameter names of diffusers' `Attention`; `time_q`, `time_k` and `time_v` are what time adds, without biases.
#[derive(Debug)]
pub struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    norm_q: HeadNorm,
    norm_k: HeadNorm,
    time: [Option<Linear>; 3],
    heads: i64,
}

impl Attention {
    /// Under `vs`: `to_q`, `to_k`, `to_v`, `to_out.0`, and `norm_q`, `norm_k`, `time_q`, `time_k`, `time_v` where the shape
    /// asks for them. `make` makes each linear layer.
    pub fn new(vs: &nn::Path<'_>, shape: AttentionShape, make: MakeLinear) -> Self {
        let AttentionShape { channels, context, heads, head_dim, bias, qk_norm, time: (time, embedding) } =
            shape;
        let (inner, asked) = (heads * head_dim, context.unwrap_or(channels));
        let timed = |name: &str, on: bool| on.then(|| make(&(vs / name), embedding, inner, false));
        Self {
            to_q: make(&(vs / "to_q"), channels, inner, bias),
            to_k: make(&(vs / "to_k"), asked, inner, bias),
            to_v: make(&(vs / "to_v"), asked, inner, bias),
            to_out: make(&(vs / "to_out" / 0), inner, channels, true),
            norm_q: HeadNorm::new(&(vs / "norm_q"), qk_norm, head_dim),
            norm_k: HeadNorm::new(&(vs / "norm_k"), qk_norm, head_dim),
            time: [
                timed("time_q", time != TimeAttention::None),
                timed("time_k", time == TimeAttention::All),
                timed("time_v", time == TimeAttention::All),
            ],
            heads,
        }
    }

    /// `[B, L, C] -> [B, L, C]`.
    pub fn forward(&self, x: &Tensor, input: AttentionInput<'_>) -> Tensor {
        let AttentionInput { context, bias, time, rotary } = input;
        let timed = |h: Tensor, timed: &Option<Linear>| match (timed, time) {
            (Some(timed), Some(time)) => h + timed.forward(time).unsqueeze(1),
            _ => h,
        };
        let [q, k, v] = self.project(x, context);
        let [in_q, in_k, in_v] = &self.time;
        let mut q = self.norm_q.forward(split_heads(&timed(q, in_q), self.heads));
        let mut k = self.norm_k.forward(split_heads(&timed(k, in_k), self.heads));
        let v = split_heads(&timed(v, in_v), self.heads);
        if let Some(rotary) = rotary {
            (q, k) = (rotary.turn(&q), rotary.turn(&k));
        }
        self.to_out.forward(&join_heads(&attend(&q, &k, &v, bias)))
    }
}

impl Attention {
    /// Queries of `x`, keys and values of the context or of `x` itself: then one product makes all three.
    fn project(&self, x: &Tensor, context: Option<&Tensor>) -> [Tensor; 3] {
        let Self { to_q, to_k, to_v, .. } = self;
        if let Some(asked) = context {
            return [to_q.forward(x), to_k.forward(asked), to_v.forward(asked)];
        }
        Linear::side_by_side([to_q, to_k, to_v], x)
    }
}

/// Makes a linear layer under a path, from one width to another, with a bias or without: how it starts is the network's
/// choice.
pub type MakeLinear = fn(&nn::Path<'_>, i64, i64, bool) -> Linear;
