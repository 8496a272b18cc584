//! The encoder and the decoder that the KL and the vector-quantised autoencoder share.

use crate::blocks::CoderShape;
use heldout_nn::{
    Activation, AttentionShape, Conv2d, Downsample, Embedded, GroupNorm, ResBlock, ResBlockShape,
    SelfAttention, Surroundings, TimeNorm, Upsample,
};
use tch::{Tensor, nn};

/// Epsilon of all norms.
const EPS: f64 = 1e-6;

fn block(vs: &nn::Path<'_>, shape: &CoderShape, from: i64, to: i64) -> ResBlock {
    let plain = ResBlockShape::new(from, to, 0, shape.groups, EPS);
    ResBlock::new(vs, ResBlockShape { activation: shape.activation, time: TimeNorm::Absent, ..plain })
}

/// Attention with one head over all channels.
fn attention(vs: &nn::Path<'_>, shape: &CoderShape, channels: i64) -> SelfAttention {
    let plain = AttentionShape::new(channels, 1, channels, true);
    SelfAttention::new(vs, plain, Some((shape.groups, EPS)), 1.0)
}

fn attend(attention: &SelfAttention, x: &Tensor) -> Tensor {
    let embedded = Embedded::absent();
    attention.forward(x, Surroundings { embedded: &embedded, context: None, bias: None, train: false })
}

/// The residual blocks of one resolution, each with attention behind it where there is any.
#[derive(Debug)]
struct Level {
    resnets: Vec<ResBlock>,
    attentions: Vec<SelfAttention>,
}

impl Level {
    fn new(
        vs: &nn::Path<'_>,
        shape: &CoderShape,
        [from, to]: [i64; 2],
        layers: usize,
        attends: bool,
    ) -> Self {
        let resnets =
            (0..layers).map(|i| block(&(vs / "resnets" / i), shape, if i == 0 { from } else { to }, to));
        let attentions =
            (0..layers).filter(|_| attends).map(|i| attention(&(vs / "attentions" / i), shape, to));
        Self { resnets: resnets.collect(), attentions: attentions.collect() }
    }

    fn forward(&self, x: Tensor) -> Tensor {
        let embedded = Embedded::absent();
        self.resnets.iter().enumerate().fold(x, |x, (i, resnet)| {
            let h = resnet.forward(&x, &embedded, false);
            self.attentions.get(i).map_or_else(|| h.shallow_clone(), |attention| attend(attention, &h))
        })
    }
}

/// Two residual blocks at the lowest resolution, with attention between them.
#[derive(Debug)]
struct Mid {
    resnets: [ResBlock; 2],
    attention: Option<SelfAttention>,
}

impl Mid {
    fn new(vs: &nn::Path<'_>, shape: &CoderShape, channels: i64) -> Self {
        Self {
            resnets: [0, 1].map(|i| block(&(vs / "resnets" / i), shape, channels, channels)),
            attention: shape.mid_attention.then(|| attention(&(vs / "attentions" / 0), shape, channels)),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let embedded = Embedded::absent();
        let h = self.resnets[0].forward(x, &embedded, false);
        let h = self.attention.as_ref().map_or_else(|| h.shallow_clone(), |attention| attend(attention, &h));
        self.resnets[1].forward(&h, &embedded, false)
    }
}

/// Norm, SiLU and convolution at the end of both; the activation is SiLU whatever the blocks have, as in diffusers.
#[derive(Debug)]
struct Out {
    norm: GroupNorm,
    conv: Conv2d,
}

impl Out {
    fn new(vs: &nn::Path<'_>, shape: &CoderShape, from: i64, to: i64) -> Self {
        let norm = GroupNorm::new(&(vs / "conv_norm_out"), shape.groups, from, EPS);
        Self { norm, conv: Conv2d::new(&(vs / "conv_out"), from, to, 3, 1) }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        self.conv.forward(&self.norm.activated(x, None, Activation::Silu))
    }
}

/// Images to features of the lowest resolution: `[B, C, H, W] -> [B, c, H/f, W/f]`. diffusers' `Encoder`.
#[derive(Debug)]
pub(crate) struct Encoder {
    conv_in: Conv2d,
    levels: Vec<(Level, Option<Downsample>)>,
    mid: Mid,
    out: Out,
}

impl Encoder {
    /// Under `vs`: `conv_in`, `down_blocks.I`, `mid_block`, `conv_norm_out`, `conv_out`.
    pub(crate) fn new(vs: &nn::Path<'_>, shape: &CoderShape, from: i64, to: i64) -> Self {
        let widths = &shape.widths;
        let last = widths.len() - 1;
        let levels = widths.iter().enumerate().map(|(i, &width)| {
            let vs = vs / "down_blocks" / i;
            let sizes = [widths[i.saturating_sub(1)], width];
            let level = Level::new(&vs, shape, sizes, shape.layers, shape.attention_down[i]);
            (level, (i < last).then(|| Downsample::new(&(&vs / "downsamplers" / 0), width, 0)))
        });
        Self {
            conv_in: Conv2d::new(&(vs / "conv_in"), from, widths[0], 3, 1),
            levels: levels.collect(),
            mid: Mid::new(&(vs / "mid_block"), shape, widths[last]),
            out: Out::new(vs, shape, widths[last], to),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let h = self.levels.iter().fold(self.conv_in.forward(x), |h, (level, down)| {
            let h = level.forward(h);
            down.as_ref().map_or_else(|| h.shallow_clone(), |down| down.forward(&h))
        });
        self.out.forward(&self.mid.forward(&h))
    }

    /// Weight of the last convolution.
    pub(crate) fn last(&self) -> &Tensor {
        &self.out.conv.weight
    }
}

/// The way back: `[B, c, H/f, W/f] -> [B, C, H, W]`. diffusers' `Decoder`.
#[derive(Debug)]
pub(crate) struct Decoder {
    conv_in: Conv2d,
    mid: Mid,
    levels: Vec<(Level, Option<Upsample>)>,
    out: Out,
}

impl Decoder {
    /// Under `vs`: `conv_in`, `mid_block`, `up_blocks.I`, `conv_norm_out`, `conv_out`.
    pub(crate) fn new(vs: &nn::Path<'_>, shape: &CoderShape, from: i64, to: i64) -> Self {
        let widths: Vec<i64> = shape.widths.iter().rev().copied().collect();
        let last = widths.len() - 1;
        let levels = widths.iter().enumerate().map(|(i, &width)| {
            let vs = vs / "up_blocks" / i;
            let sizes = [widths[i.saturating_sub(1)], width];
            let level = Level::new(&vs, shape, sizes, shape.layers + 1, shape.attention_up[i]);
            (level, (i < last).then(|| Upsample::new(&(&vs / "upsamplers" / 0), width)))
        });
        Self {
            conv_in: Conv2d::new(&(vs / "conv_in"), from, widths[0], 3, 1),
            mid: Mid::new(&(vs / "mid_block"), shape, widths[0]),
            levels: levels.collect(),
            out: Out::new(vs, shape, widths[last], to),
        }
    }

    pub(crate) fn forward(&self, z: &Tensor) -> Tensor {
        let h = self.mid.forward(&self.conv_in.forward(z));
        let h = self.levels.iter().fold(h, |h, (level, up)| {
            let h = level.forward(h);
            up.as_ref().map_or_else(|| h.shallow_clone(), |up| up.forward(&h, None))
        });
        self.out.forward(&h)
    }

    /// Weight of the last convolution.
    pub(crate) fn last(&self) -> &Tensor {
        &self.out.conv.weight
    }
}
