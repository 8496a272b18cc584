//! diffusers' block types as levels of a plan.

use super::{ResampleType, TimeScaleShift};
use crate::plan::{AttentionPlan, Joins, LevelPlan, MidPlan, ResamplePlan};
use heldout_core::{Error, Result};
use heldout_nn::{
    Activation, AddedAttentionShape, AttentionShape, ContextNorm, NormedAttentionShape, ResBlockShape,
    Resample, TimeNorm, Transformer2dShape,
};
use serde::{Deserialize, Serialize};

/// diffusers' blocks of the way down; a `UNetRes` before the name means the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = with_old_names))]
#[allow(missing_docs, reason = "the names are diffusers'")]
pub enum DownBlockType {
    #[serde(alias = "UNetResDownBlock2D")]
    DownBlock2D,
    #[serde(alias = "UNetResAttnDownBlock2D")]
    AttnDownBlock2D,
    #[serde(alias = "UNetResResnetDownsampleBlock2D")]
    ResnetDownsampleBlock2D,
    #[serde(alias = "UNetResCrossAttnDownBlock2D")]
    CrossAttnDownBlock2D,
    #[serde(alias = "UNetResSimpleCrossAttnDownBlock2D")]
    SimpleCrossAttnDownBlock2D,
    #[serde(alias = "UNetResSkipDownBlock2D")]
    SkipDownBlock2D,
    #[serde(alias = "UNetResAttnSkipDownBlock2D")]
    AttnSkipDownBlock2D,
    #[serde(alias = "UNetResKDownBlock2D")]
    KDownBlock2D,
    #[serde(alias = "UNetResKCrossAttnDownBlock2D")]
    KCrossAttnDownBlock2D,
}

/// diffusers' blocks of the way up; a `UNetRes` before the name means the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = with_old_names))]
#[allow(missing_docs, reason = "the names are diffusers'")]
pub enum UpBlockType {
    #[serde(alias = "UNetResUpBlock2D")]
    UpBlock2D,
    #[serde(alias = "UNetResAttnUpBlock2D")]
    AttnUpBlock2D,
    #[serde(alias = "UNetResResnetUpsampleBlock2D")]
    ResnetUpsampleBlock2D,
    #[serde(alias = "UNetResCrossAttnUpBlock2D")]
    CrossAttnUpBlock2D,
    #[serde(alias = "UNetResSimpleCrossAttnUpBlock2D")]
    SimpleCrossAttnUpBlock2D,
    #[serde(alias = "UNetResSkipUpBlock2D")]
    SkipUpBlock2D,
    #[serde(alias = "UNetResAttnSkipUpBlock2D")]
    AttnSkipUpBlock2D,
    #[serde(alias = "UNetResKUpBlock2D")]
    KUpBlock2D,
    #[serde(alias = "UNetResKCrossAttnUpBlock2D")]
    KCrossAttnUpBlock2D,
}

/// diffusers' blocks of the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names are diffusers'")]
pub enum MidBlockType {
    UNetMidBlock2D,
    UNetMidBlock2DCrossAttn,
    UNetMidBlock2DSimpleCrossAttn,
}

/// A schema that admits the names of before, too.
#[cfg(feature = "schema")]
fn with_old_names(schema: &mut schemars::Schema) {
    if let Some(serde_json::Value::Array(names)) = schema.get_mut("enum") {
        let old: Vec<_> =
            names.iter().filter_map(|n| Some(format!("UNetRes{}", n.as_str()?).into())).collect();
        names.extend(old);
    }
}

/// What the blocks of all levels share.
#[derive(Debug, Clone)]
pub(super) struct Common {
    pub(super) embedding: i64,
    pub(super) groups: Option<i64>,
    pub(super) eps: f64,
    pub(super) dropout: f64,
    pub(super) activation: Activation,
    pub(super) time: TimeScaleShift,
    pub(super) skip_time_act: bool,
    pub(super) resnet_scale: f64,
    pub(super) downsample_padding: i64,
    pub(super) downsample_type: ResampleType,
    pub(super) upsample_type: ResampleType,
    pub(super) linear_projection: bool,
    pub(super) dual: bool,
    pub(super) grounded: bool,
    pub(super) context_norm: Option<ContextNorm>,
}

/// One level.
#[derive(Debug, Clone)]
pub(super) struct Level {
    /// Channels in; on the way up those of the level that the last skip connection comes from.
    pub(super) from: i64,
    /// Channels out.
    pub(super) to: i64,
    /// Channels of the level before, on the way up.
    pub(super) before: i64,
    /// Residual blocks.
    pub(super) layers: usize,
    /// Whether the resolution changes at the end.
    pub(super) resamples: bool,
    /// Width of a head, where blocks go by that.
    pub(super) head_dim: i64,
    /// Heads, where blocks go by that.
    pub(super) heads: Option<i64>,
    /// Width of the context.
    pub(super) context: Option<i64>,
    /// Transformer blocks of each attention layer.
    pub(super) depth: Vec<usize>,
    /// Whether attention looks at the context alone.
    pub(super) only_context: bool,
    /// Whether a level of the way up has no skip connection to take.
    pub(super) starts_alone: bool,
}

/// Of residual blocks that carry the image along: the sums are divided by it.
const SKIP_SCALE: f64 = std::f64::consts::SQRT_2;
/// Channels of a group of the norms of k-diffusion's blocks.
const GROUP_SIZE: i64 = 32;

/// The number of groups that diffusers takes where none is given.
fn default_groups(channels: i64) -> i64 {
    (channels / 4).min(32)
}

fn head_count(head_dim: i64, channels: i64) -> Result<i64> {
    if head_dim >= 1 && channels >= head_dim {
        return Ok(channels / head_dim);
    }
    Err(Error::config("attention_head_dim", format!("{head_dim} does not divide {channels} channels")))
}

fn context_of(level: &Level, block: &str) -> Result<i64> {
    level.context.ok_or_else(|| Error::config("cross_attention_dim", format!("is missing: {block} needs it")))
}

impl Common {
    pub(super) fn block(&self, from: i64, to: i64) -> ResBlockShape {
        let groups = self.groups.unwrap_or_else(|| default_groups(from));
        let time = match self.time {
            TimeScaleShift::Default => TimeNorm::Shift,
            TimeScaleShift::ScaleShift => TimeNorm::ScaleShift,
        };
        ResBlockShape {
            dropout: self.dropout,
            activation: self.activation,
            time,
            ..ResBlockShape::new(from, to, self.embedding, groups, self.eps)
        }
    }

    /// A block of the kinds that go by `resnet_skip_time_act` and, but for a change of resolution, by
    /// `resnet_out_scale_factor`.
    fn scaled(&self, from: i64, to: i64) -> ResBlockShape {
        ResBlockShape { skip_time_act: self.skip_time_act, scale: self.resnet_scale, ..self.block(from, to) }
    }

    fn beside_image(&self, from: i64, to: i64, groups: i64) -> ResBlockShape {
        let norm_groups = [groups, default_groups(to)];
        ResBlockShape { norm_groups, scale: SKIP_SCALE, ..self.block(from, to) }
    }

    fn filtered(&self, channels: i64, resample: Resample) -> ResBlockShape {
        let shape = self.beside_image(channels, channels, default_groups(channels));
        ResBlockShape { resample, shortcut: Some(true), ..shape }
    }

    /// A block of k-diffusion, the number of whose groups follows the channels of the input and of the level.
    fn grouped(&self, [from, inner, to]: [i64; 3], level: i64) -> ResBlockShape {
        ResBlockShape {
            inner,
            time: TimeNorm::AdaGroup,
            norm_groups: [from / GROUP_SIZE, level / GROUP_SIZE],
            shortcut_bias: false,
            ..self.block(from, to)
        }
    }

    pub(super) fn own(&self, channels: i64, head_dim: i64) -> Result<AttentionPlan> {
        let groups = self.groups.unwrap_or_else(|| default_groups(channels));
        self.own_with(channels, head_dim, Some((groups, self.eps)), 1.0)
    }

    pub(super) fn own_with(
        &self,
        channels: i64,
        head_dim: i64,
        norm: Option<(i64, f64)>,
        scale: f64,
    ) -> Result<AttentionPlan> {
        let shape = AttentionShape::new(channels, head_count(head_dim, channels)?, head_dim, true);
        Ok(AttentionPlan::Own { shape, norm, scale })
    }

    /// The transformer after residual block `j`.
    fn cross(&self, level: &Level, j: usize, block: &str) -> Result<AttentionPlan> {
        let heads = level
            .heads
            .ok_or_else(|| Error::config("attention_head_dim", format!("is null: {block} needs it")))?;
        if heads < 1 || level.to < heads {
            let reason = format!("{heads} heads of {} channels", level.to);
            return Err(Error::config("attention_head_dim", reason));
        }
        let layers = *level.depth.get(j).ok_or_else(|| {
            let reason = format!("{} values for {} attention layers", level.depth.len(), level.layers);
            Error::config("transformer_layers_per_block", reason)
        })?;
        if self.dual {
            let reason = "true: the peer cannot run it either; false is the only choice with cross-attention";
            return Err(Error::config("dual_cross_attention", reason));
        }
        let shape = Transformer2dShape {
            channels: level.to,
            heads,
            context: context_of(level, block)?,
            layers,
            norm_groups: self.groups.unwrap_or_else(|| default_groups(level.to)),
            linear_projection: self.linear_projection,
            only_context: level.only_context,
            grounded: self.grounded,
            time: (heldout_nn::TimeAttention::None, 0),
        };
        Ok(AttentionPlan::Cross(shape))
    }

    fn added(&self, level: &Level, block: &str) -> Result<AttentionPlan> {
        Ok(AttentionPlan::Added(AddedAttentionShape {
            channels: level.to,
            context: context_of(level, block)?,
            heads: head_count(level.head_dim, level.to)?,
            head_dim: level.head_dim,
            norm_groups: self.groups.unwrap_or_else(|| default_groups(level.to)),
            only_context: level.only_context,
            context_norm: self.context_norm,
        }))
    }

    fn normed(&self, level: &Level, channels: i64, self_attention: bool) -> Result<AttentionPlan> {
        Ok(AttentionPlan::Normed(NormedAttentionShape {
            channels,
            context: level.context,
            heads: head_count(level.head_dim, channels)?,
            head_dim: level.head_dim,
            embedding: self.embedding,
            self_attention,
        }))
    }

    /// A level of the way down.
    pub(super) fn down(&self, kind: DownBlockType, level: &Level) -> Result<LevelPlan> {
        use DownBlockType as Type;
        let Level { from, to, layers, resamples, head_dim, .. } = *level;
        let enters = |j: usize| if j == 0 { from } else { to };
        let each = |attention: AttentionPlan| (0..layers).map(|j| (j, attention)).collect::<Vec<_>>();
        let by_conv = ResamplePlan::Conv { channels: to, padding: self.downsample_padding };
        let halving = |shape: ResBlockShape| ResBlockShape { resample: Resample::Mean, ..shape };
        let by_block = ResamplePlan::Block(halving(self.scaled(to, to)));
        let resnets = |make: &dyn Fn(i64) -> ResBlockShape| (0..layers).map(|j| make(enters(j))).collect();
        let plain = || resnets(&|from| self.block(from, to));
        let scaled = || resnets(&|from| self.scaled(from, to));
        let carrying = || resnets(&|from| self.beside_image(from, to, default_groups(from)));
        let grouped = || resnets(&|from| self.grouped([from, to, to], to));
        let beside = ResamplePlan::Beside(self.filtered(to, Resample::FirDown));
        let mirrored = ResamplePlan::Filter(Resample::MirroredDown);
        let (resnets, attentions, resample): (Vec<_>, _, _) = match kind {
            Type::DownBlock2D => (plain(), Vec::new(), by_conv),
            Type::AttnDownBlock2D => {
                let resample = match self.downsample_type {
                    ResampleType::Conv => by_conv,
                    ResampleType::Resnet => ResamplePlan::Block(halving(self.block(to, to))),
                };
                (plain(), each(self.own(to, head_dim)?), resample)
            }
            Type::ResnetDownsampleBlock2D => (scaled(), Vec::new(), by_block),
            Type::CrossAttnDownBlock2D => {
                let layer = |j| Ok((j, self.cross(level, j, "CrossAttnDownBlock2D")?));
                (plain(), (0..layers).map(layer).collect::<Result<_>>()?, by_conv)
            }
            Type::SimpleCrossAttnDownBlock2D => {
                (scaled(), each(self.added(level, "SimpleCrossAttnDownBlock2D")?), by_block)
            }
            Type::SkipDownBlock2D => (carrying(), Vec::new(), beside),
            Type::AttnSkipDownBlock2D => {
                let attention = self.own_with(to, head_dim, Some((32, self.eps)), SKIP_SCALE)?;
                (carrying(), each(attention), beside)
            }
            Type::KDownBlock2D => (grouped(), Vec::new(), mirrored),
            Type::KCrossAttnDownBlock2D => (grouped(), each(self.normed(level, to, !resamples)?), mirrored),
        };
        let resample = if resamples { resample } else { ResamplePlan::Keep };
        let carries_image = matches!(kind, Type::SkipDownBlock2D | Type::AttnSkipDownBlock2D);
        Ok(LevelPlan { resnets, attentions, resample, carries_image, joins: Joins::Never })
    }

    /// A level of the way up.
    pub(super) fn up(&self, kind: UpBlockType, level: &Level) -> Result<LevelPlan> {
        use UpBlockType as Type;
        if matches!(kind, Type::KUpBlock2D | Type::KCrossAttnUpBlock2D) {
            return self.up_grouped(kind, level);
        }
        let Level { from, to, before, layers, resamples, head_dim, .. } = *level;
        // The last skip of a level comes from the finer one's downsampling or, at the top, from the first convolution.
        let enters = |j: usize| {
            let skip = if j + 1 == layers { from } else { to };
            (if j == 0 { before } else { to }, skip)
        };
        let each = |attention: AttentionPlan| (0..layers).map(|j| (j, attention)).collect::<Vec<_>>();
        let by_conv = ResamplePlan::Conv { channels: to, padding: 1 };
        let doubling = |shape: ResBlockShape| ResBlockShape { resample: Resample::Nearest, ..shape };
        let by_block = ResamplePlan::Block(doubling(self.scaled(to, to)));
        let resnets = |make: &dyn Fn(i64, i64) -> ResBlockShape| {
            (0..layers).map(|j| make(enters(j).0, enters(j).1)).collect::<Vec<_>>()
        };
        let plain = || resnets(&|h, skip| self.block(h + skip, to));
        let scaled = || resnets(&|h, skip| self.scaled(h + skip, to));
        let beside = ResamplePlan::Beside(self.filtered(to, Resample::FirUp));
        let (resnets, attentions, resample) = match kind {
            Type::UpBlock2D => (plain(), Vec::new(), by_conv),
            Type::AttnUpBlock2D => {
                let resample = match self.upsample_type {
                    ResampleType::Conv => by_conv,
                    ResampleType::Resnet => ResamplePlan::Block(doubling(self.block(to, to))),
                };
                (plain(), each(self.own(to, head_dim)?), resample)
            }
            Type::ResnetUpsampleBlock2D => (scaled(), Vec::new(), by_block),
            Type::CrossAttnUpBlock2D => {
                let layer = |j| Ok((j, self.cross(level, j, "CrossAttnUpBlock2D")?));
                (plain(), (0..layers).map(layer).collect::<Result<_>>()?, by_conv)
            }
            Type::SimpleCrossAttnUpBlock2D => {
                (scaled(), each(self.added(level, "SimpleCrossAttnUpBlock2D")?), by_block)
            }
            Type::SkipUpBlock2D => {
                let block = |h: i64, skip| self.beside_image(h + skip, to, default_groups(h + skip));
                (resnets(&block), Vec::new(), beside)
            }
            Type::AttnSkipUpBlock2D => {
                // Not a quarter of the sum: the peer divides the skip's channels alone.
                let block = |h: i64, skip: i64| self.beside_image(h + skip, to, (h + skip / 4).min(32));
                let attention = self.own_with(to, head_dim, Some((32, self.eps)), SKIP_SCALE)?;
                (resnets(&block), vec![(layers - 1, attention)], beside)
            }
            Type::KUpBlock2D | Type::KCrossAttnUpBlock2D => unreachable!("these returned above"),
        };
        let resample = if resamples { resample } else { ResamplePlan::Keep };
        let carries_image = matches!(kind, Type::SkipUpBlock2D | Type::AttnSkipUpBlock2D);
        Ok(LevelPlan { resnets, attentions, resample, carries_image, joins: Joins::Each })
    }

    /// k-diffusion's levels of the way up: one block fewer, one skip connection, and the channels of the next level at
    /// the end.
    fn up_grouped(&self, kind: UpBlockType, level: &Level) -> Result<LevelPlan> {
        let Level { from, to, resamples, .. } = *level;
        let layers = level.layers - 1;
        let crosses = kind == UpBlockType::KCrossAttnUpBlock2D;
        let is_first = crosses && from == to && to == self.embedding;
        let enters = |j: usize| match j {
            0 if is_first => to,
            0 => 2 * to,
            _ => to,
        };
        let is_last = |j: usize| j + 1 == layers;
        let resnets = (0..layers).map(|j| match (is_last(j), crosses) {
            (true, true) => self.grouped([enters(j), to, from], to),
            (true, false) => self.grouped([enters(j), from, from], to),
            (false, _) => self.grouped([enters(j), to, to], to),
        });
        let attention = |j: usize| {
            let channels = if is_last(j) { from } else { to };
            Ok((j, self.normed(level, channels, is_first)?))
        };
        let attentions =
            if crosses { (0..layers).map(attention).collect::<Result<_>>()? } else { Vec::new() };
        let filter = ResamplePlan::Filter(Resample::MirroredUp);
        let joins = if level.starts_alone { Joins::Never } else { Joins::Last };
        let resample = if resamples { filter } else { ResamplePlan::Keep };
        Ok(LevelPlan { resnets: resnets.collect(), attentions, resample, carries_image: false, joins })
    }

    /// The middle of a UNet that looks at a context.
    pub(super) fn mid(&self, kind: MidBlockType, level: &Level, scale: f64) -> Result<MidPlan> {
        let channels = level.to;
        let block = ResBlockShape { scale, ..self.block(channels, channels) };
        Ok(match kind {
            MidBlockType::UNetMidBlock2D => MidPlan { first: block, rest: None },
            MidBlockType::UNetMidBlock2DCrossAttn => {
                let level = Level { only_context: false, ..level.clone() };
                let attention = self.cross(&level, 0, "UNetMidBlock2DCrossAttn")?;
                MidPlan { first: block, rest: Some((Some(attention), block)) }
            }
            MidBlockType::UNetMidBlock2DSimpleCrossAttn => {
                let block = ResBlockShape { skip_time_act: self.skip_time_act, ..block };
                let attention = self.added(level, "UNetMidBlock2DSimpleCrossAttn")?;
                MidPlan { first: block, rest: Some((Some(attention), block)) }
            }
        })
    }
}
