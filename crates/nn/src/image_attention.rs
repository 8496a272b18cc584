//! Attention over the places of an image.

use crate::attention::{Attention, AttentionInput, AttentionShape, attend, join_heads, split_heads};
use crate::layers::{GroupNorm, LayerNorm, Linear};
use crate::resblock::{AdaGroupNorm, Embedded};
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

/// `[B, C, H, W] -> [B, H W, C]`.
pub fn to_tokens(x: &Tensor) -> Tensor {
    x.flatten(2, -1).transpose(1, 2)
}

/// The way back to an image of this size.
pub fn to_image(tokens: &Tensor, size: &[i64]) -> Tensor {
    tokens.transpose(1, 2).reshape([size[0], -1, size[2], size[3]])
}

/// What the blocks of a network see besides the image.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// The time embedding.
    pub embedded: &'a Embedded,
    /// Token features, `[B, L, D]`.
    pub context: Option<&'a Tensor>,
    /// What a mask of the context adds to the scores, `[B, 1, 1, L]`: see [`mask_bias`](crate::mask_bias).
    pub bias: Option<&'a Tensor>,
    /// Whether dropout is on.
    pub train: bool,
}

/// Norm, self-attention over `H W` tokens, projection, plus the input.
///
/// Parameter names of diffusers' `Attention` as its `UNet2DModel` uses it.
#[derive(Debug)]
pub struct SelfAttention {
    group_norm: Option<GroupNorm>,
    attention: Attention,
    scale: f64,
}

impl SelfAttention {
    /// Under `vs`: `group_norm` (of `norm`: groups and epsilon), and the layers of an [`Attention`]. The sum is divided by
    /// `scale`.
    pub fn new(vs: &nn::Path<'_>, shape: AttentionShape, norm: Option<(i64, f64)>, scale: f64) -> Self {
        let group_norm =
            norm.map(|(groups, eps)| GroupNorm::new(&(vs / "group_norm"), groups, shape.channels, eps));
        Self { group_norm, attention: Attention::new(vs, shape, Linear::with_bias), scale }
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    pub fn forward(&self, x: &Tensor, around: Surroundings<'_>) -> Tensor {
        let normed = self.group_norm.as_ref().map_or_else(|| x.shallow_clone(), |norm| norm.forward(x));
        let input = AttentionInput { time: Some(&around.embedded.activated), ..AttentionInput::default() };
        let h = self.attention.forward(&to_tokens(&normed), input);
        let sum = x + to_image(&h, &x.size());
        if self.scale == 1.0 { sum } else { sum / self.scale }
    }
}

/// A norm of the context before it is asked, by diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ContextNorm {
    /// Layer norm of each token.
    LayerNorm,
    /// Group norm of 32 groups.
    GroupNorm,
}

#[derive(Debug)]
enum ContextNormLayer {
    Layer(LayerNorm),
    Group(GroupNorm),
}

impl ContextNormLayer {
    fn forward(&self, context: &Tensor) -> Tensor {
        match self {
            Self::Layer(norm) => norm.forward(context),
            Self::Group(norm) => norm.forward(&context.transpose(1, 2)).transpose(1, 2),
        }
    }
}

/// Sizes of an [`AddedAttention`].
#[derive(Debug, Clone, Copy)]
pub struct AddedAttentionShape {
    /// Channels of the image.
    pub channels: i64,
    /// Width of the context's tokens.
    pub context: i64,
    /// How many heads.
    pub heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Groups of the norm.
    pub norm_groups: i64,
    /// Whether the image's own places are left out.
    pub only_context: bool,
    /// Norm of the context.
    pub context_norm: Option<ContextNorm>,
}

/// Attention of an image's places over a context and, unless they are left out, themselves: one softmax over both.
///
/// Parameter names of diffusers' `Attention` with added keys and values (`SimpleCrossAttnDownBlock2D`).
#[derive(Debug)]
pub struct AddedAttention {
    group_norm: GroupNorm,
    context_norm: Option<ContextNormLayer>,
    to_q: Linear,
    own: Option<[Linear; 2]>,
    added: [Linear; 2],
    to_out: Linear,
    heads: i64,
}

impl AddedAttention {
    /// Under `vs`: `group_norm`, `norm_cross`, `to_q`, `to_k`, `to_v`, `add_k_proj`, `add_v_proj`, `to_out.0`.
    pub fn new(vs: &nn::Path<'_>, shape: AddedAttentionShape) -> Self {
        let AddedAttentionShape { channels, context, heads, head_dim, norm_groups, .. } = shape;
        let inner = heads * head_dim;
        let norm_cross = vs / "norm_cross";
        let context_norm = shape.context_norm.map(|kind| match kind {
            ContextNorm::LayerNorm => ContextNormLayer::Layer(LayerNorm::new(&norm_cross, channels, 1e-5)),
            ContextNorm::GroupNorm => ContextNormLayer::Group(GroupNorm::new(&norm_cross, 32, context, 1e-5)),
        });
        Self {
            group_norm: GroupNorm::new(&(vs / "group_norm"), norm_groups, channels, 1e-5),
            context_norm,
            to_q: Linear::new(&(vs / "to_q"), channels, inner),
            own: (!shape.only_context)
                .then(|| ["to_k", "to_v"].map(|n| Linear::new(&(vs / n), channels, inner))),
            added: ["add_k_proj", "add_v_proj"].map(|n| Linear::new(&(vs / n), context, inner)),
            to_out: Linear::new(&(vs / "to_out" / 0), inner, channels),
            heads,
        }
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    ///
    /// # Panics
    /// Without a context.
    pub fn forward(&self, x: &Tensor, around: Surroundings<'_>) -> Tensor {
        let context = around.context.expect("`check` asks for a context");
        let normed = self.context_norm.as_ref().map(|norm| norm.forward(context));
        let context = normed.as_ref().unwrap_or(context);
        let tokens = to_tokens(&self.group_norm.forward(x));
        let places = tokens.size()[1];
        let keys = |index: usize| {
            let added = self.added[index].forward(context);
            let all = match &self.own {
                Some(own) => Tensor::cat(&[added, own[index].forward(&tokens)], 1),
                None => added,
            };
            split_heads(&all, self.heads)
        };
        let bias = around.bias.map(|bias| match self.own {
            Some(_) => bias.constant_pad_nd([0, places]), // the image's own places are all seen
            None => bias.shallow_clone(),
        });
        let q = split_heads(&self.to_q.forward(&tokens), self.heads);
        let h = self.to_out.forward(&join_heads(&attend(&q, &keys(0), &keys(1), bias.as_ref())));
        x + to_image(&h, &x.size())
    }
}

/// Sizes of a [`NormedAttention`].
#[derive(Debug, Clone, Copy)]
pub struct NormedAttentionShape {
    /// Channels of the image.
    pub channels: i64,
    /// Width of the context's tokens; without a context the places are asked once more.
    pub context: Option<i64>,
    /// How many heads.
    pub heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Width of the time embedding.
    pub embedding: i64,
    /// Whether the image's places see each other first.
    pub self_attention: bool,
}

/// Self-attention, where wanted, and attention over a context, each behind a norm that follows the time embedding.
///
/// Parameter names of diffusers' `KAttentionBlock`.
#[derive(Debug)]
pub struct NormedAttention {
    own: Option<(AdaGroupNorm, Attention)>,
    norm2: AdaGroupNorm,
    context_norm: LayerNorm,
    attn2: Attention,
}

impl NormedAttention {
    /// Under `vs`: `norm1`, `attn1` (where wanted), `norm2`, `attn2` with its `norm_cross`.
    pub fn new(vs: &nn::Path<'_>, shape: NormedAttentionShape) -> Self {
        let NormedAttentionShape { channels, context, heads, head_dim, embedding, self_attention } = shape;
        let norm = |name| AdaGroupNorm::new(&(vs / name), embedding, channels, (channels / 32).max(1), 1e-5);
        let attention = AttentionShape::new(channels, heads, head_dim, true);
        let crossing = AttentionShape { context, ..attention };
        let attend = |name, shape| Attention::new(&(vs / name), shape, Linear::with_bias);
        Self {
            own: self_attention.then(|| (norm("norm1"), attend("attn1", attention))),
            norm2: norm("norm2"),
            context_norm: LayerNorm::new(&(vs / "attn2" / "norm_cross"), context.unwrap_or(channels), 1e-5),
            attn2: attend("attn2", crossing),
        }
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    pub fn forward(&self, x: &Tensor, around: Surroundings<'_>) -> Tensor {
        let (size, embedding) = (x.size(), &around.embedded.raw);
        let mut x = x.shallow_clone();
        if let Some((norm, attention)) = &self.own {
            let h = attention.forward(&to_tokens(&norm.forward(&x, embedding)), AttentionInput::default());
            x = &x + to_image(&h, &size);
        }
        let context = around.context.map(|context| self.context_norm.forward(context));
        let input =
            AttentionInput { context: context.as_ref(), bias: around.bias, ..AttentionInput::default() };
        let h = self.attn2.forward(&to_tokens(&self.norm2.forward(&x, embedding)), input);
        x + to_image(&h, &size)
    }
}
