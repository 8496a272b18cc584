//! The residual block of diffusion UNets.

use crate::feed_forward::drop_out;
use crate::layers::{Conv2d, GroupNorm, Linear};
use crate::{Activation, Resample, tally};
use tch::{Tensor, nn};

/// How time enters a [`ResBlock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeNorm {
    /// Added before the second norm; Ho et al. 2020, appendix B.
    #[default]
    Shift,
    /// Scales and shifts after the second norm; Dhariwal and Nichol 2021, section 4.2.
    ScaleShift,
    /// Scales and shifts after both norms, which have no weights of their own, as in k-diffusion.
    AdaGroup,
    /// Not at all, as in autoencoders.
    Absent,
}

/// The time embedding, `[B, E]`, and the same after the activation, which all blocks of a network share.
#[derive(Debug)]
pub struct Embedded {
    /// As it is.
    pub raw: Tensor,
    /// After the network's activation.
    pub activated: Tensor,
}

impl Embedded {
    /// With its activation.
    pub fn new(raw: Tensor, activation: Activation) -> Self {
        Self { activated: activation.apply(&raw), raw }
    }

    /// For blocks that time does not enter ([`TimeNorm::Absent`]): tensors without a shape, which none of them looks at.
    pub fn absent() -> Self {
        Self { raw: Tensor::new(), activated: Tensor::new() }
    }
}

/// Sizes and options of a [`ResBlock`].
#[derive(Debug, Clone, Copy)]
pub struct ResBlockShape {
    /// Channels in.
    pub from: i64,
    /// Channels between the convolutions.
    pub inner: i64,
    /// Channels out.
    pub to: i64,
    /// Width of the time embedding.
    pub embedding: i64,
    /// Groups of both norms; they divide `from` and `inner`.
    pub norm_groups: [i64; 2],
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Probability of zeroing before the second convolution.
    pub dropout: f64,
    /// The pointwise function.
    pub activation: Activation,
    /// How time enters.
    pub time: TimeNorm,
    /// Whether time enters without the activation.
    pub skip_time_act: bool,
    /// Resampling before the first convolution and of the input that is added.
    pub resample: Resample,
    /// Whether the input is projected; where the channels differ, if absent.
    pub shortcut: Option<bool>,
    /// Whether the projection of the input has a bias.
    pub shortcut_bias: bool,
    /// Divides the sum.
    pub scale: f64,
}

impl ResBlockShape {
    /// The block of Ho et al. 2020.
    pub fn new(from: i64, to: i64, embedding: i64, norm_groups: i64, norm_eps: f64) -> Self {
        Self {
            from,
            inner: to,
            to,
            embedding,
            norm_groups: [norm_groups; 2],
            norm_eps,
            dropout: 0.0,
            activation: Activation::Silu,
            time: TimeNorm::Shift,
            skip_time_act: false,
            resample: Resample::Keep,
            shortcut: None,
            shortcut_bias: true,
            scale: 1.0,
        }
    }
}

/// Group norm whose scale and shift are linear in the time embedding; diffusers' `AdaGroupNorm`.
#[derive(Debug)]
pub struct AdaGroupNorm {
    linear: Linear,
    groups: i64,
    eps: f64,
}

impl AdaGroupNorm {
    /// Under `vs`: `linear`.
    pub fn new(vs: &nn::Path<'_>, embedding: i64, channels: i64, groups: i64, eps: f64) -> Self {
        Self { linear: Linear::new(&(vs / "linear"), embedding, 2 * channels), groups, eps }
    }

    /// `x` `[B, C, H, W]`, `embedding` `[B, E]`.
    pub fn forward(&self, x: &Tensor, embedding: &Tensor) -> Tensor {
        let normed = tally::shaped(x, &x.size())
            .unwrap_or_else(|| x.group_norm(self.groups, None::<Tensor>, None::<Tensor>, self.eps, false));
        tally::kept(&normed);
        scale_and_shift(&normed, &self.linear.forward(embedding))
    }
}

/// `x (1 + scale) + shift` with both halves of `[B, 2 C]`.
fn scale_and_shift(x: &Tensor, scale_shift: &Tensor) -> Tensor {
    let halves = scale_shift.unsqueeze(-1).unsqueeze(-1).chunk(2, 1);
    x * (&halves[0] + 1.0) + &halves[1]
}

/// A norm, with weights of its own or with scale and shift from the time embedding.
#[derive(Debug)]
enum Norm {
    Own(GroupNorm),
    Ada(AdaGroupNorm),
}

impl Norm {
    fn new(vs: &nn::Path<'_>, shape: &ResBlockShape, index: usize) -> Self {
        let (groups, eps) = (shape.norm_groups[index], shape.norm_eps);
        let channels = [shape.from, shape.inner][index];
        match shape.time {
            TimeNorm::AdaGroup => Self::Ada(AdaGroupNorm::new(vs, shape.embedding, channels, groups, eps)),
            _ => Self::Own(GroupNorm::new(vs, groups, channels, eps)),
        }
    }

    fn activated(
        &self,
        x: &Tensor,
        shift: Option<&Tensor>,
        embedded: &Embedded,
        activation: Activation,
    ) -> Tensor {
        match self {
            Self::Own(norm) => norm.activated(x, shift, activation),
            Self::Ada(norm) => activation.apply(&norm.forward(x, &embedded.raw)),
        }
    }
}

/// Norm, activation, convolution, the time embedding, norm, activation, dropout, convolution, plus the input.
///
/// Ho et al. 2020, appendix B; parameter names of diffusers' `ResnetBlock2D` and `ResnetBlockCondNorm2D`.
#[derive(Debug)]
pub struct ResBlock {
    shape: ResBlockShape,
    norm1: Norm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: Norm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
}

impl ResBlock {
    /// Under `vs`: `norm1`, `conv1`, `time_emb_proj`, `norm2`, `conv2` and, where the input is projected, `conv_shortcut`.
    pub fn new(vs: &nn::Path<'_>, shape: ResBlockShape) -> Self {
        let ResBlockShape { from, inner, to, embedding, time, .. } = shape;
        let project = |wide| Linear::new(&(vs / "time_emb_proj"), embedding, wide);
        let shortcut = || match shape.shortcut_bias {
            true => Conv2d::new(&(vs / "conv_shortcut"), from, to, 1, 1),
            false => Conv2d::without_bias(&(vs / "conv_shortcut"), from, to, 1),
        };
        Self {
            shape,
            norm1: Norm::new(&(vs / "norm1"), &shape, 0),
            conv1: Conv2d::new(&(vs / "conv1"), from, inner, 3, 1),
            time_emb_proj: match time {
                TimeNorm::Shift => Some(project(inner)),
                TimeNorm::ScaleShift => Some(project(2 * inner)),
                TimeNorm::AdaGroup | TimeNorm::Absent => None,
            },
            norm2: Norm::new(&(vs / "norm2"), &shape, 1),
            conv2: Conv2d::new(&(vs / "conv2"), inner, to, 3, 1),
            conv_shortcut: shape.shortcut.unwrap_or(from != to).then(shortcut),
        }
    }

    /// `x` `[B, from, H, W]` to `[B, to, ..]`.
    pub fn forward(&self, x: &Tensor, embedded: &Embedded, train: bool) -> Tensor {
        let ResBlockShape { activation, resample, skip_time_act, .. } = self.shape;
        let mut h = self.norm1.activated(x, None, embedded, activation);
        let mut x = x.shallow_clone();
        if resample != Resample::Keep {
            (h, x) = (resample.forward(&h), resample.forward(&x));
        }
        h = self.conv1.forward(&h); // [B, inner, H', W']
        let time = if skip_time_act { &embedded.raw } else { &embedded.activated };
        let time = self.time_emb_proj.as_ref().map(|project| project.forward(time));
        h = match (time, self.shape.time, &self.norm2) {
            (Some(time), TimeNorm::ScaleShift, Norm::Own(norm)) => {
                activation.apply(&scale_and_shift(&norm.forward(&h), &time))
            }
            (time, _, norm) => norm.activated(&h, time.as_ref(), embedded, activation),
        };
        let h = self.conv2.forward(&drop_out(h, self.shape.dropout, train));
        let x = self.conv_shortcut.as_ref().map_or(x.shallow_clone(), |shortcut| shortcut.forward(&x));
        let sum = x + h;
        if self.shape.scale == 1.0 { sum } else { sum / self.shape.scale }
    }
}
