//! Transformer blocks inside UNets.

use crate::attention::{Attention, AttentionInput, AttentionShape, TimeAttention};
use crate::feed_forward::{FeedForward, FeedForwardKind};
use crate::grounding::Fuser;
use crate::image_attention::{Surroundings, to_image, to_tokens};
use crate::layers::{Conv2d, GroupNorm, LayerNorm, Linear};
use tch::{Tensor, nn};

/// Sizes of a [`Transformer2d`].
#[derive(Debug, Clone, Copy)]
pub struct Transformer2dShape {
    /// Channels of the image.
    pub channels: i64,
    /// How many heads; each has `channels / heads` channels, and what that leaves over stays outside the blocks.
    pub heads: i64,
    /// Width of the context's tokens.
    pub context: i64,
    /// How many blocks.
    pub layers: usize,
    /// Groups of the norm.
    pub norm_groups: i64,
    /// Whether the projections around the blocks are linear layers rather than convolutions of one pixel.
    pub linear_projection: bool,
    /// Whether both attentions of a block look at the context.
    pub only_context: bool,
    /// Whether the blocks carry the layers of grounded generation.
    pub grounded: bool,
    /// Where time enters the attentions, and the width of its embedding.
    pub time: (TimeAttention, i64),
}

impl Transformer2dShape {
    /// Width of the tokens inside.
    fn inner(&self) -> i64 {
        self.channels / self.heads * self.heads
    }
}

/// Self-attention, attention over a context, feed-forward (GEGLU), each behind a layer norm and added to its input;
/// Rombach et al. 2022, section 3.3. Parameter names of diffusers' `BasicTransformerBlock`.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: FeedForward,
    only_context: bool,
    _fuser: Option<Fuser>,
}

impl Block {
    fn new(vs: &nn::Path<'_>, shape: &Transformer2dShape) -> Self {
        let Transformer2dShape { heads, context, only_context, time, .. } = *shape;
        let channels = shape.inner();
        let norm = |name| LayerNorm::new(&(vs / name), channels, 1e-5);
        let own = AttentionShape { time, ..AttentionShape::new(channels, heads, channels / heads, false) };
        let crossing = AttentionShape { context: Some(context), ..own };
        let attend = |name, shape| Attention::new(&(vs / name), shape, Linear::with_bias);
        Self {
            norm1: norm("norm1"),
            attn1: attend("attn1", if only_context { crossing } else { own }),
            norm2: norm("norm2"),
            attn2: attend("attn2", crossing),
            norm3: norm("norm3"),
            ff: FeedForward::new(
                &(vs / "ff"),
                FeedForwardKind::Geglu,
                channels,
                4 * channels,
                0.0,
                Linear::with_bias,
            ),
            only_context,
            _fuser: shape.grounded.then(|| Fuser::new(&(vs / "fuser"), channels, context, heads)),
        }
    }

    fn forward(&self, x: &Tensor, around: Surroundings<'_>) -> Tensor {
        let time = Some(&around.embedded.activated);
        let own = AttentionInput { time, ..AttentionInput::default() };
        let crossing = AttentionInput { context: around.context, bias: around.bias, ..own };
        // The first attention does not heed the mask, in the peer either.
        let first = if self.only_context { AttentionInput { bias: None, ..crossing } } else { own };
        let x = self.attn1.forward(&self.norm1.forward(x), first) + x;
        let x = self.attn2.forward(&self.norm2.forward(&x), crossing) + x;
        self.ff.forward(&self.norm3.forward(&x), around.train) + x
    }
}

/// Norm, projection, transformer blocks over the places of an image, projection, plus the input; diffusers'
/// `Transformer2DModel` as its UNets use it.
#[derive(Debug)]
pub struct Transformer2d {
    norm: GroupNorm,
    project: Projections,
    blocks: Vec<Block>,
}

#[derive(Debug)]
enum Projections {
    Linear([Linear; 2]),
    Conv([Conv2d; 2]),
}

impl Transformer2d {
    /// Under `vs`: `norm`, `proj_in`, `transformer_blocks`, `proj_out`.
    pub fn new(vs: &nn::Path<'_>, shape: Transformer2dShape) -> Self {
        let (channels, inner) = (shape.channels, shape.inner());
        let ways = [("proj_in", channels, inner), ("proj_out", inner, channels)];
        let project = match shape.linear_projection {
            true => Projections::Linear(ways.map(|(n, from, to)| Linear::new(&(vs / n), from, to))),
            false => Projections::Conv(ways.map(|(n, from, to)| Conv2d::new(&(vs / n), from, to, 1, 1))),
        };
        Self {
            norm: GroupNorm::new(&(vs / "norm"), shape.norm_groups, channels, 1e-6),
            project,
            blocks: (0..shape.layers).map(|i| Block::new(&(vs / "transformer_blocks" / i), &shape)).collect(),
        }
    }

    /// `[B, C, H, W] -> [B, C, H, W]`.
    pub fn forward(&self, x: &Tensor, around: Surroundings<'_>) -> Tensor {
        let size = x.size();
        let normed = self.norm.forward(x);
        let mut tokens = match &self.project {
            Projections::Linear([enter, _]) => enter.forward(&to_tokens(&normed)),
            Projections::Conv([enter, _]) => to_tokens(&enter.forward(&normed)),
        };
        for block in &self.blocks {
            tokens = block.forward(&tokens, around);
        }
        x + match &self.project {
            Projections::Linear([_, leave]) => to_image(&leave.forward(&tokens), &size),
            Projections::Conv([_, leave]) => leave.forward(&to_image(&tokens, &size)),
        }
    }
}
