//! The transformer of vision and text towers: blocks with the norm in front, as ViT and CLIP have them.

use heldout_core::Result;
use heldout_nn::{
    Attention, AttentionInput, AttentionShape, FeedForward, FeedForwardKind, LayerNorm, Linear, variable,
};
use heldout_weights::{Piece, Rows, Shapes, WeightFiles, load_into};
use tch::nn::Init;
use tch::{Tensor, nn};

/// Sizes of an [`Encoder`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncoderShape {
    pub(crate) width: i64,
    pub(crate) depth: usize,
    pub(crate) heads: i64,
    /// Width inside the feed-forward layers.
    pub(crate) inner: i64,
    pub(crate) feed_forward: FeedForwardKind,
    pub(crate) eps: f64,
    /// Whether what a block adds is multiplied by a learned number for each channel; Touvron et al. 2021, Eq. 6.
    pub(crate) layer_scale: bool,
}

#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attn: Attention,
    norm2: LayerNorm,
    ff: FeedForward,
    scales: Option<[Tensor; 2]>,
}

/// Blocks of attention and feed-forward, each behind a layer norm and added to its input: `[B, L, D] -> [B, L, D]`.
#[derive(Debug)]
pub(crate) struct Encoder(Vec<Block>);

impl Encoder {
    /// Under `vs`: `I.norm1`, `I.attn`, `I.norm2`, `I.ff`, and `I.scale1`, `I.scale2` where the shape asks for them.
    pub(crate) fn new(vs: &nn::Path<'_>, shape: EncoderShape) -> Self {
        let EncoderShape { width, depth, heads, inner, feed_forward, eps, layer_scale } = shape;
        let block = |i| {
            let vs = vs / i;
            let scale = |name| variable(&vs, name, &[width], Init::Const(1.0));
            Block {
                norm1: LayerNorm::new(&(&vs / "norm1"), width, eps),
                attn: Attention::new(
                    &(&vs / "attn"),
                    AttentionShape::new(width, heads, width / heads, true),
                    Linear::with_bias,
                ),
                norm2: LayerNorm::new(&(&vs / "norm2"), width, eps),
                ff: FeedForward::new(&(&vs / "ff"), feed_forward, width, inner, 0.0, Linear::with_bias),
                scales: layer_scale.then(|| ["scale1", "scale2"].map(scale)),
            }
        };
        Self((0..depth).map(block).collect())
    }

    /// The tokens in front of the first block and behind each, `depth + 1` of `[B, L, D]`. `bias` `[B or 1, 1, 1 or L, L]` is
    /// added to the scores.
    pub(crate) fn forward(&self, tokens: &Tensor, bias: Option<&Tensor>) -> Vec<Tensor> {
        let mut states = vec![tokens.shallow_clone()];
        let mut x = tokens.shallow_clone();
        for block in &self.0 {
            let scaled = |h: Tensor, i: usize| match &block.scales {
                Some(scales) => h * &scales[i],
                None => h,
            };
            let input = AttentionInput { bias, ..AttentionInput::default() };
            x = &x + scaled(block.attn.forward(&block.norm1.forward(&x), input), 0);
            x = &x + scaled(block.ff.forward(&block.norm2.forward(&x), false), 1);
            states.push(x.shallow_clone());
        }
        states
    }
}

/// What a published layout calls the tensors of a tower.
#[derive(Debug)]
pub(crate) struct Names<'a> {
    pub(crate) files: &'a WeightFiles,
    pub(crate) pieces: Vec<Piece>,
}

impl<'a> Names<'a> {
    pub(crate) fn new(files: &'a WeightFiles) -> Self {
        Self { files, pieces: Vec::new() }
    }

    /// A tensor under another name, in the shape of the file; its absence is told when the weights are loaded.
    pub(crate) fn one(&mut self, to: &str, from: &str) {
        let shape = self.files.shape(from).unwrap_or_default();
        self.pieces.push(Piece::whole(to, from, shape));
    }

    /// Weight and bias of a layer.
    pub(crate) fn layer(&mut self, to: &str, from: &str) {
        for part in ["weight", "bias"] {
            self.one(&format!("{to}.{part}"), &format!("{from}.{part}"));
        }
    }

    /// Weight and bias `[3 D, ..]` as those of query, key and value.
    pub(crate) fn query_key_value(&mut self, to: &str, from: &str) {
        for part in ["weight", "bias"] {
            let from = format!("{from}.{part}");
            let mut shape = self.files.shape(&from).unwrap_or_default();
            if let Some(rows) = shape.first_mut() {
                *rows /= 3;
            }
            for (index, name) in ["to_q", "to_k", "to_v"].iter().enumerate() {
                self.pieces.push(Piece {
                    to: format!("{to}.{name}.{part}"),
                    from: from.clone(),
                    rows: Some(Rows { groups: 1, of: 3, index: index as i64 }),
                    shape: shape.clone(),
                });
            }
        }
    }

    /// Copies the weights into the variables, which are then trained no more.
    pub(crate) fn load(self, vars: &mut nn::VarStore) -> Result<()> {
        let destinations: Vec<(String, Tensor)> = vars.variables().into_iter().collect();
        load_into(&destinations, self.files, &self.pieces)?;
        vars.freeze();
        Ok(())
    }
}

/// How many numbered parts there are: the first `i` for which `name(i)` is not in the file.
pub(crate) fn count(shapes: &Shapes, name: impl Fn(usize) -> String) -> usize {
    (0..).take_while(|i| shapes.contains_key(&name(*i))).count()
}
