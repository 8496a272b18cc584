//! diffusers' `UNet2DConditionModel`.

use super::blocks::{Common, DownBlockType, Level, MidBlockType, UpBlockType};
use super::{ClassEmbedType, PerLevel, ResampleType, TimeEmbeddingType, TimeScaleShift, levels_agree};
use crate::plan::{AddedPlan, ClassPlan, ConditioningPlan, ContextPlan, Plan};
use heldout_core::{Error, Result};
use heldout_nn::{Activation, ContextNorm, Grounding, MlpOptions, TimeEmbeddingConfig};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Whether a model carries the layers of grounded generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AttentionType {
    /// No.
    Default,
    /// For boxes with text.
    Gated,
    /// For boxes with text and images.
    GatedTextImage,
}

/// Transformer blocks of the attention layers: the same everywhere, or of each level, or of each layer of each level.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "a number, or a list with a number or a list for each level")]
pub enum Depth {
    /// The same everywhere.
    One(usize),
    /// Of each level.
    Each(Vec<PerLevel<usize>>),
}

impl Depth {
    fn spread(&self, field: &str, levels: usize) -> Result<Vec<PerLevel<usize>>> {
        match self {
            Self::One(n) => Ok(vec![PerLevel::One(*n); levels]),
            Self::Each(each) => PerLevel::Each(each.clone()).spread(field, levels),
        }
    }

    fn is_nested(&self) -> bool {
        matches!(self, Self::Each(each) if each.iter().any(|d| matches!(d, PerLevel::Each(_))))
    }
}

/// The configuration of diffusers' `UNet2DConditionModel`, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct UNet2DConditionModelConfig {
    #[serde(skip_serializing_if = "Value::is_null")]
    pub sample_size: Value,
    pub in_channels: i64,
    pub out_channels: i64,
    pub center_input_sample: bool,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub down_block_types: Vec<DownBlockType>,
    pub mid_block_type: Option<MidBlockType>,
    pub up_block_types: Vec<UpBlockType>,
    pub only_cross_attention: PerLevel<bool>,
    pub block_out_channels: Vec<i64>,
    pub layers_per_block: PerLevel<usize>,
    pub downsample_padding: i64,
    pub mid_block_scale_factor: f64,
    pub dropout: f64,
    pub act_fn: Activation,
    pub norm_num_groups: Option<i64>,
    pub norm_eps: f64,
    pub cross_attention_dim: Option<PerLevel<i64>>,
    pub transformer_layers_per_block: Depth,
    pub reverse_transformer_layers_per_block: Option<Depth>,
    pub encoder_hid_dim: Option<i64>,
    pub encoder_hid_dim_type: Option<String>,
    pub attention_head_dim: PerLevel<Option<i64>>,
    pub num_attention_heads: Option<PerLevel<i64>>,
    pub dual_cross_attention: bool,
    pub use_linear_projection: bool,
    pub class_embed_type: Option<ClassEmbedType>,
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<i64>,
    pub num_class_embeds: Option<i64>,
    pub upcast_attention: Option<bool>,
    pub resnet_time_scale_shift: TimeScaleShift,
    pub resnet_skip_time_act: bool,
    pub resnet_out_scale_factor: f64,
    pub time_embedding_type: TimeEmbeddingType,
    pub time_embedding_dim: Option<i64>,
    pub time_embedding_act_fn: Option<Activation>,
    pub timestep_post_act: Option<Activation>,
    pub time_cond_proj_dim: Option<i64>,
    pub conv_in_kernel: i64,
    pub conv_out_kernel: i64,
    pub projection_class_embeddings_input_dim: Option<i64>,
    pub attention_type: AttentionType,
    pub class_embeddings_concat: bool,
    pub mid_block_only_cross_attention: Option<bool>,
    pub cross_attention_norm: Option<ContextNorm>,
    pub addition_embed_type_num_heads: i64,
}

impl Default for UNet2DConditionModelConfig {
    fn default() -> Self {
        use DownBlockType::{CrossAttnDownBlock2D, DownBlock2D};
        use UpBlockType::{CrossAttnUpBlock2D, UpBlock2D};
        Self {
            sample_size: Value::Null,
            in_channels: 4,
            out_channels: 4,
            center_input_sample: false,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                CrossAttnDownBlock2D,
                DownBlock2D,
            ],
            mid_block_type: Some(MidBlockType::UNetMidBlock2DCrossAttn),
            up_block_types: vec![UpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D, CrossAttnUpBlock2D],
            only_cross_attention: PerLevel::One(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::One(2),
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            dropout: 0.0,
            act_fn: Activation::Silu,
            norm_num_groups: Some(32),
            norm_eps: 1e-5,
            cross_attention_dim: Some(PerLevel::One(1280)),
            transformer_layers_per_block: Depth::One(1),
            reverse_transformer_layers_per_block: None,
            encoder_hid_dim: None,
            encoder_hid_dim_type: None,
            attention_head_dim: PerLevel::One(Some(8)),
            num_attention_heads: None,
            dual_cross_attention: false,
            use_linear_projection: false,
            class_embed_type: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            num_class_embeds: None,
            upcast_attention: Some(false),
            resnet_time_scale_shift: TimeScaleShift::Default,
            resnet_skip_time_act: false,
            resnet_out_scale_factor: 1.0,
            time_embedding_type: TimeEmbeddingType::Positional,
            time_embedding_dim: None,
            time_embedding_act_fn: None,
            timestep_post_act: None,
            time_cond_proj_dim: None,
            conv_in_kernel: 3,
            conv_out_kernel: 3,
            projection_class_embeddings_input_dim: None,
            attention_type: AttentionType::Default,
            class_embeddings_concat: false,
            mid_block_only_cross_attention: None,
            cross_attention_norm: None,
            addition_embed_type_num_heads: 64,
        }
    }
}

/// A number that another field needs.
fn needed<T: Copy>(value: Option<T>, field: &str, by: &str) -> Result<T> {
    value.ok_or_else(|| Error::config(field, format!("is missing: {by} needs it")))
}

/// Transformer blocks of each attention layer of one level, of which it has `layers`.
fn depths(level: &PerLevel<usize>, layers: usize) -> Vec<usize> {
    match level {
        PerLevel::One(n) => vec![*n; layers],
        PerLevel::Each(each) => each.clone(),
    }
}

impl UNet2DConditionModelConfig {
    /// The one width of the context, where the network has one.
    fn one_context(&self, by: &str) -> Result<i64> {
        match &self.cross_attention_dim {
            Some(PerLevel::One(width)) => Ok(*width),
            _ => Err(Error::config("cross_attention_dim", format!("is not one number: {by} needs one"))),
        }
    }

    fn class(&self) -> Result<Option<ClassPlan>> {
        let projected = |by| {
            needed(self.projection_class_embeddings_input_dim, "projection_class_embeddings_input_dim", by)
        };
        Ok(match self.class_embed_type {
            None => self.num_class_embeds.map(ClassPlan::Table),
            Some(ClassEmbedType::Timestep) => Some(ClassPlan::Timestep(self.act_fn)),
            Some(ClassEmbedType::Identity) => Some(ClassPlan::Identity),
            Some(ClassEmbedType::Projection) => {
                Some(ClassPlan::Mlp(projected("class_embed_type projection")?))
            }
            Some(ClassEmbedType::SimpleProjection) => {
                Some(ClassPlan::Linear(projected("class_embed_type simple_projection")?))
            }
        })
    }

    fn added(&self) -> Result<Option<AddedPlan>> {
        let Some(kind) = self.addition_embed_type.as_deref() else { return Ok(None) };
        let by = format!("addition_embed_type {kind}");
        let image = || needed(self.encoder_hid_dim, "encoder_hid_dim", &by);
        Ok(Some(match kind {
            "text" => {
                let context = match self.encoder_hid_dim {
                    Some(width) => width,
                    None => self.one_context(&by)?,
                };
                let heads = self.addition_embed_type_num_heads;
                if heads < 1 || context % heads != 0 {
                    let reason = format!("{heads} does not divide {context}, the width of the context");
                    return Err(Error::config("addition_embed_type_num_heads", reason));
                }
                AddedPlan::Text { context, heads }
            }
            "text_image" => AddedPlan::TextImage(self.one_context(&by)?),
            "text_time" => AddedPlan::TextTime {
                time_dim: needed(self.addition_time_embed_dim, "addition_time_embed_dim", &by)?,
                input: needed(
                    self.projection_class_embeddings_input_dim,
                    "projection_class_embeddings_input_dim",
                    &by,
                )?,
                flip_sin_to_cos: self.flip_sin_to_cos,
                freq_shift: self.freq_shift,
            },
            "image" => AddedPlan::Image(image()?),
            "image_hint" => AddedPlan::ImageHint(image()?),
            other => {
                let reason = format!("{other}: one of text, text_image, text_time, image, image_hint");
                return Err(Error::config("addition_embed_type", reason));
            }
        }))
    }

    fn context(&self) -> Result<Option<ContextPlan>> {
        let kind = match (self.encoder_hid_dim_type.as_deref(), self.encoder_hid_dim) {
            (None, None) => return Ok(None),
            (None, Some(_)) => "text_proj",
            (Some(kind), _) => kind,
        };
        let by = format!("encoder_hid_dim_type {kind}");
        let from = needed(self.encoder_hid_dim, "encoder_hid_dim", &by)?;
        let to = self.one_context(&by)?;
        Ok(Some(match kind {
            "text_proj" => ContextPlan::Text { from, to },
            "text_image_proj" => ContextPlan::TextImage { text: from, to },
            "image_proj" => ContextPlan::Image { from, to },
            other => {
                let reason = format!("{other}: one of text_proj, text_image_proj, image_proj");
                return Err(Error::config("encoder_hid_dim_type", reason));
            }
        }))
    }

    /// What boxes are described by, and the width of the context that they join.
    fn grounding(&self) -> Option<(Grounding, i64)> {
        let width = match &self.cross_attention_dim {
            Some(PerLevel::One(width)) => *width,
            Some(PerLevel::Each(widths)) => *widths.first()?,
            None => return None,
        };
        match self.attention_type {
            AttentionType::Default => None,
            AttentionType::Gated => Some((Grounding::Text, width)),
            AttentionType::GatedTextImage => Some((Grounding::TextImage, width)),
        }
    }

    fn time(&self) -> Result<(TimeEmbeddingConfig, i64, i64)> {
        let first = self.block_out_channels[0];
        let flip_sin_to_cos = self.flip_sin_to_cos;
        let (of, features, embedding) = match self.time_embedding_type {
            TimeEmbeddingType::Positional => {
                let of = TimeEmbeddingConfig::Sinusoidal { flip_sin_to_cos, freq_shift: self.freq_shift };
                (of, first, self.time_embedding_dim.unwrap_or(4 * first))
            }
            TimeEmbeddingType::Fourier => {
                let wide = self.time_embedding_dim.unwrap_or(2 * first);
                (TimeEmbeddingConfig::Fourier { scale: 1.0, log: false, flip_sin_to_cos }, wide, wide)
            }
            TimeEmbeddingType::Learned => {
                let reason = "learned is known to UNet2DModel alone";
                return Err(Error::config("time_embedding_type", reason));
            }
        };
        Ok((TimeEmbeddingConfig::Mlp { of: Box::new(of) }, features, embedding))
    }

    fn conditioning(&self) -> Result<ConditioningPlan> {
        let (time, features, embedding) = self.time()?;
        let context_dim = match &self.cross_attention_dim {
            Some(PerLevel::One(width)) => Some(*width),
            Some(PerLevel::Each(widths)) => widths.first().copied(),
            None => None,
        };
        Ok(ConditioningPlan {
            time,
            features,
            embedding,
            mlp: MlpOptions {
                activation: self.act_fn,
                post: self.timestep_post_act,
                cond: self.time_cond_proj_dim,
                std: None,
            },
            class: self.class()?,
            concat: self.class_embeddings_concat,
            added: self.added()?,
            context: self.context()?,
            context_dim,
            act: self.time_embedding_act_fn,
            activation: self.act_fn,
        })
    }

    fn common(&self, embedding: i64) -> Result<Common> {
        if self.num_attention_heads.is_some() {
            let reason = "is not taken by the peer either: attention_head_dim holds the number of heads";
            return Err(Error::config("num_attention_heads", reason));
        }
        Ok(Common {
            embedding,
            groups: self.norm_num_groups,
            eps: self.norm_eps,
            dropout: self.dropout,
            activation: self.act_fn,
            time: self.resnet_time_scale_shift,
            skip_time_act: self.resnet_skip_time_act,
            resnet_scale: self.resnet_out_scale_factor,
            downsample_padding: self.downsample_padding,
            downsample_type: ResampleType::Conv,
            upsample_type: ResampleType::Conv,
            linear_projection: self.use_linear_projection,
            dual: self.dual_cross_attention,
            grounded: self.attention_type != AttentionType::Default,
            context_norm: self.cross_attention_norm,
        })
    }

    /// The levels of the way down, finest first.
    fn levels(&self) -> Result<Vec<Level>> {
        let widths = &self.block_out_channels;
        let n = widths.len();
        let layers = self.layers_per_block.spread("layers_per_block", n)?;
        let heads = self.attention_head_dim.spread("attention_head_dim", n)?;
        let only = self.only_cross_attention.spread("only_cross_attention", n)?;
        let depth = self.transformer_layers_per_block.spread("transformer_layers_per_block", n)?;
        let context = self.cross_attention_dim.as_ref();
        let context = context.map(|c| c.spread("cross_attention_dim", n)).transpose()?;
        if layers.contains(&0) {
            return Err(Error::config("layers_per_block", "0: at least 1 is needed"));
        }
        let level = |i: usize| Level {
            from: widths[i.saturating_sub(1)],
            to: widths[i],
            before: 0,
            layers: layers[i],
            resamples: i + 1 < n,
            head_dim: heads[i].unwrap_or(widths[i]),
            heads: heads[i],
            context: context.as_ref().map(|c| c[i]),
            depth: depths(&depth[i], layers[i]),
            only_context: only[i],
            starts_alone: false,
        };
        Ok((0..n).map(level).collect())
    }

    /// The levels of the way up, coarsest first.
    fn levels_up(&self, down: &[Level]) -> Result<Vec<Level>> {
        let n = down.len();
        let depth = match &self.reverse_transformer_layers_per_block {
            Some(reverse) => reverse.spread("reverse_transformer_layers_per_block", n)?,
            None if self.transformer_layers_per_block.is_nested() => {
                let reason = "is missing: transformer_layers_per_block with lists inside needs it";
                return Err(Error::config("reverse_transformer_layers_per_block", reason));
            }
            None => {
                let depth = self.transformer_layers_per_block.spread("transformer_layers_per_block", n)?;
                depth.into_iter().rev().collect()
            }
        };
        let alone = self.down_block_types.last() == Some(&DownBlockType::KCrossAttnDownBlock2D);
        let level = |i: usize| {
            let at = n - 1 - i;
            let layers = down[at].layers + 1;
            Level {
                from: down[at.saturating_sub(1)].to,
                before: down[(at + 1).min(n - 1)].to,
                layers,
                // The peer gives the way up the widths of heads in the order of the way down.
                head_dim: down[i].head_dim,
                resamples: i + 1 < n,
                depth: depths(&depth[i], layers),
                starts_alone: i == 0 && alone,
                ..down[at].clone()
            }
        };
        Ok((0..n).map(level).collect())
    }

    /// The network that this stands for; an error names the field that cannot be honoured.
    pub fn plan(&self) -> Result<Plan> {
        let widths = &self.block_out_channels;
        levels_agree(widths, self.down_block_types.len(), self.up_block_types.len())?;
        let conditioning = self.conditioning()?;
        let common = self.common(conditioning.blocks())?;
        let levels = self.levels()?;
        let up = self.levels_up(&levels)?;
        let down = self.down_block_types.iter().zip(&levels).enumerate();
        let down = down.map(|(i, (kind, level))| {
            common.down(*kind, level).map_err(|e| e.within(&format!("down_blocks.{i}")))
        });
        let up = self.up_block_types.iter().zip(&up).enumerate();
        let up = up.map(|(i, (kind, level))| {
            common.up(*kind, level).map_err(|e| e.within(&format!("up_blocks.{i}")))
        });
        let only_mid = self.mid_block_only_cross_attention.unwrap_or(match &self.only_cross_attention {
            PerLevel::One(only) => *only,
            PerLevel::Each(_) => false,
        });
        let last = Level { only_context: only_mid, ..levels[levels.len() - 1].clone() };
        let mid = self.mid_block_type.map(|kind| {
            common.mid(kind, &last, self.mid_block_scale_factor).map_err(|e| e.within("mid_block"))
        });
        Ok(Plan {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            width: widths[0],
            center_input: self.center_input_sample,
            conv_in_kernel: self.conv_in_kernel,
            conv_out_kernel: self.conv_out_kernel,
            down: down.collect::<Result<_>>()?,
            mid: mid.transpose()?,
            up: up.collect::<Result<_>>()?,
            norm_out: self.norm_num_groups.map(|groups| (groups, self.norm_eps, self.act_fn)),
            divide_by_level: false,
            grounding: self.grounding(),
            conditioning,
        })
    }
}
