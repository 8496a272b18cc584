//! diffusers' `UNet2DModel`.

use super::blocks::{Common, DownBlockType, Level, MidBlockType, UpBlockType};
use super::{ClassEmbedType, ResampleType, TimeEmbeddingType, TimeScaleShift, levels_agree};
use crate::plan::{ClassPlan, ConditioningPlan, MidPlan, Plan};
use heldout_core::{Error, Result};
use heldout_nn::{Activation, MlpOptions, ResBlockShape, TimeEmbeddingConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The configuration of diffusers' `UNet2DModel`, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct UNet2DModelConfig {
    #[serde(skip_serializing_if = "Value::is_null")]
    pub sample_size: Value,
    pub in_channels: i64,
    pub out_channels: i64,
    pub center_input_sample: bool,
    pub time_embedding_type: TimeEmbeddingType,
    pub time_embedding_dim: Option<i64>,
    pub freq_shift: f64,
    pub flip_sin_to_cos: bool,
    pub down_block_types: Vec<DownBlockType>,
    pub mid_block_type: Option<MidBlockType>,
    pub up_block_types: Vec<UpBlockType>,
    pub block_out_channels: Vec<i64>,
    pub layers_per_block: usize,
    pub mid_block_scale_factor: f64,
    pub downsample_padding: i64,
    pub downsample_type: ResampleType,
    pub upsample_type: ResampleType,
    pub dropout: f64,
    pub act_fn: Activation,
    pub attention_head_dim: Option<i64>,
    pub norm_num_groups: Option<i64>,
    pub attn_norm_num_groups: Option<i64>,
    pub norm_eps: f64,
    pub resnet_time_scale_shift: TimeScaleShift,
    pub add_attention: bool,
    pub class_embed_type: Option<ClassEmbedType>,
    pub num_class_embeds: Option<i64>,
    pub num_train_timesteps: Option<i64>,
}

impl Default for UNet2DModelConfig {
    fn default() -> Self {
        use DownBlockType::{AttnDownBlock2D, DownBlock2D};
        use UpBlockType::{AttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: Value::Null,
            in_channels: 3,
            out_channels: 3,
            center_input_sample: false,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            freq_shift: 0.0,
            flip_sin_to_cos: true,
            down_block_types: vec![DownBlock2D, AttnDownBlock2D, AttnDownBlock2D, AttnDownBlock2D],
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            up_block_types: vec![AttnUpBlock2D, AttnUpBlock2D, AttnUpBlock2D, UpBlock2D],
            block_out_channels: vec![224, 448, 672, 896],
            layers_per_block: 2,
            mid_block_scale_factor: 1.0,
            downsample_padding: 1,
            downsample_type: ResampleType::Conv,
            upsample_type: ResampleType::Conv,
            dropout: 0.0,
            act_fn: Activation::Silu,
            attention_head_dim: Some(8),
            norm_num_groups: Some(32),
            attn_norm_num_groups: None,
            norm_eps: 1e-5,
            resnet_time_scale_shift: TimeScaleShift::Default,
            add_attention: true,
            class_embed_type: None,
            num_class_embeds: None,
            num_train_timesteps: None,
        }
    }
}

impl UNet2DModelConfig {
    fn time(&self) -> Result<TimeEmbeddingConfig> {
        let of = match self.time_embedding_type {
            TimeEmbeddingType::Positional => TimeEmbeddingConfig::Sinusoidal {
                flip_sin_to_cos: self.flip_sin_to_cos,
                freq_shift: self.freq_shift,
            },
            TimeEmbeddingType::Fourier => {
                TimeEmbeddingConfig::Fourier { scale: 16.0, log: true, flip_sin_to_cos: false }
            }
            TimeEmbeddingType::Learned => {
                let levels = self.num_train_timesteps.ok_or_else(|| {
                    Error::config("num_train_timesteps", "is missing: time_embedding_type learned needs it")
                })?;
                TimeEmbeddingConfig::Table { levels }
            }
        };
        Ok(TimeEmbeddingConfig::Mlp { of: Box::new(of) })
    }

    fn class(&self) -> Result<Option<ClassPlan>> {
        match (self.class_embed_type, self.num_class_embeds) {
            (None, rows) => Ok(rows.map(ClassPlan::Table)),
            (Some(ClassEmbedType::Timestep), _) => Ok(Some(ClassPlan::Timestep(Activation::Silu))),
            (Some(ClassEmbedType::Identity), _) => Ok(Some(ClassPlan::Identity)),
            (Some(other), _) => {
                let reason = format!("{other:?} is known to UNet2DConditionModel alone");
                Err(Error::config("class_embed_type", reason))
            }
        }
    }

    /// The network that this stands for; an error names the field that cannot be honoured.
    pub fn plan(&self) -> Result<Plan> {
        let widths = &self.block_out_channels;
        levels_agree(widths, self.down_block_types.len(), self.up_block_types.len())?;
        if self.layers_per_block < 1 {
            return Err(Error::config("layers_per_block", "0: at least 1 is needed"));
        }
        let features = if self.time_embedding_type == TimeEmbeddingType::Fourier { 2 } else { 1 } * widths[0];
        let embedding = self.time_embedding_dim.unwrap_or(4 * widths[0]);
        let common = Common {
            embedding,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            dropout: self.dropout,
            activation: self.act_fn,
            time: self.resnet_time_scale_shift,
            skip_time_act: false,
            resnet_scale: 1.0,
            downsample_padding: self.downsample_padding,
            downsample_type: self.downsample_type,
            upsample_type: self.upsample_type,
            linear_projection: false,
            dual: false,
            grounded: false,
            context_norm: None,
        };
        let (last, n) = (widths[widths.len() - 1], widths.len());
        let alone = self.down_block_types.last() == Some(&DownBlockType::KCrossAttnDownBlock2D);
        let level = |from, to, before, layers, i: usize| Level {
            from,
            to,
            before,
            layers,
            resamples: i + 1 < n,
            head_dim: self.attention_head_dim.unwrap_or(to),
            heads: None,
            context: None,
            depth: Vec::new(),
            only_context: false,
            starts_alone: i == 0 && alone,
        };
        let down = self.down_block_types.iter().enumerate().map(|(i, kind)| {
            let from = widths[i.saturating_sub(1)];
            common
                .down(*kind, &level(from, widths[i], 0, self.layers_per_block, i))
                .map_err(|e| e.within(&format!("down_blocks.{i}")))
        });
        let reversed: Vec<i64> = widths.iter().rev().copied().collect();
        let up = self.up_block_types.iter().enumerate().map(|(i, kind)| {
            let (before, from) = (reversed[i.saturating_sub(1)], reversed[(i + 1).min(n - 1)]);
            common
                .up(*kind, &level(from, reversed[i], before, self.layers_per_block + 1, i))
                .map_err(|e| e.within(&format!("up_blocks.{i}")))
        });
        let groups_out = self.norm_num_groups.unwrap_or((widths[0] / 4).min(32));
        Ok(Plan {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            width: widths[0],
            center_input: self.center_input_sample,
            conditioning: ConditioningPlan {
                time: self.time()?,
                features,
                embedding,
                mlp: MlpOptions::default(),
                class: self.class()?,
                concat: false,
                added: None,
                context: None,
                context_dim: None,
                act: None,
                activation: self.act_fn,
            },
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            down: down.collect::<Result<_>>()?,
            mid: self.mid_block_type.map(|_| self.mid(&common, last)).transpose()?,
            up: up.collect::<Result<_>>()?,
            norm_out: Some((groups_out, self.norm_eps, Activation::Silu)),
            grounding: None,
            divide_by_level: self.time_embedding_type == TimeEmbeddingType::Fourier,
        })
    }

    fn mid(&self, common: &Common, channels: i64) -> Result<MidPlan> {
        let scale = self.mid_block_scale_factor;
        let block = ResBlockShape { scale, ..common.block(channels, channels) };
        let is_shifted = self.resnet_time_scale_shift == TimeScaleShift::Default;
        let groups = self.attn_norm_num_groups.or_else(|| is_shifted.then_some(block.norm_groups[0]));
        let norm = groups.map(|groups| (groups, self.norm_eps));
        let head_dim = self.attention_head_dim.unwrap_or(channels);
        let attention = self.add_attention.then(|| common.own_with(channels, head_dim, norm, scale));
        Ok(MidPlan { first: block, rest: Some((attention.transpose()?, block)) })
    }
}
