//! The configuration of diffusers' `ControlNetModel`.

use heldout_core::{Error, Result};
use heldout_nn::Activation;
use heldout_unet::diffusers::{
    ClassEmbedType, Depth, DownBlockType, MidBlockType, PerLevel, TimeScaleShift, UNet2DConditionModelConfig,
    UpBlockType,
};
use heldout_unet::plan::{AddedPlan, ClassPlan, Plan, ResamplePlan};
use serde::{Deserialize, Serialize};

/// In which order the colours of a hint are told to the network; hints are always given as red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// As given.
    #[default]
    Rgb,
    /// Turned round.
    Bgr,
}

/// How a ControlNet takes its hint, beside the encoder that it copies; the names are diffusers'.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HintConfig {
    /// Channels of the hint.
    pub conditioning_channels: i64,
    /// Widths of the network that embeds it: it halves the size between each and the next.
    pub conditioning_embedding_out_channels: Vec<i64>,
    /// In which order the colours are told.
    pub controlnet_conditioning_channel_order: ChannelOrder,
    /// Whether every residual is its mean over the places, so that a hint says what and not where.
    pub global_pool_conditions: bool,
}

impl Default for HintConfig {
    /// For hints of eight times the size, as those of Stable Diffusion.
    fn default() -> Self {
        Self {
            conditioning_channels: 3,
            conditioning_embedding_out_channels: vec![16, 32, 96, 256],
            controlnet_conditioning_channel_order: ChannelOrder::Rgb,
            global_pool_conditions: false,
        }
    }
}

impl HintConfig {
    /// Which field cannot be honoured beside a UNet of this plan, and why.
    pub(super) fn check(&self, plan: &Plan) -> Result<()> {
        let widths = &self.conditioning_embedding_out_channels;
        if let Some(n) = widths.iter().find(|n| **n < 1) {
            let reason = format!("{n}: at least 1 is needed");
            return Err(Error::config("conditioning_embedding_out_channels", reason));
        }
        if widths.is_empty() || widths.len() > 8 {
            let reason = format!("{} widths: 1 to 8 are possible", widths.len());
            return Err(Error::config("conditioning_embedding_out_channels", reason));
        }
        if self.conditioning_channels < 1 {
            let reason = format!("{}: at least 1 is needed", self.conditioning_channels);
            return Err(Error::config("conditioning_channels", reason));
        }
        if plan.down.iter().any(|level| matches!(level.resample, ResamplePlan::Filter(_))) {
            let reason = "KDownBlock2D and KCrossAttnDownBlock2D make other skip connections than diffusers' \
                          ControlNetModel counts: take other blocks";
            return Err(Error::config("down_block_types", reason));
        }
        if matches!(plan.conditioning.added, Some(AddedPlan::ImageHint(_))) {
            let reason =
                "image_hint: the network has a hint of its own, and there is one hint in the conditions";
            return Err(Error::config("addition_embed_type", reason));
        }
        Ok(())
    }
}

/// The configuration of diffusers' `ControlNetModel`, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct ControlNetModelConfig {
    pub in_channels: i64,
    pub conditioning_channels: i64,
    pub flip_sin_to_cos: bool,
    pub freq_shift: f64,
    pub down_block_types: Vec<DownBlockType>,
    pub mid_block_type: MidBlockType,
    pub only_cross_attention: PerLevel<bool>,
    pub block_out_channels: Vec<i64>,
    pub layers_per_block: usize,
    pub downsample_padding: i64,
    pub mid_block_scale_factor: f64,
    pub act_fn: Activation,
    pub norm_num_groups: Option<i64>,
    pub norm_eps: f64,
    pub cross_attention_dim: i64,
    pub transformer_layers_per_block: PerLevel<usize>,
    pub encoder_hid_dim: Option<i64>,
    pub encoder_hid_dim_type: Option<String>,
    pub attention_head_dim: PerLevel<Option<i64>>,
    pub num_attention_heads: Option<PerLevel<i64>>,
    pub use_linear_projection: bool,
    pub class_embed_type: Option<ClassEmbedType>,
    pub addition_embed_type: Option<String>,
    pub addition_time_embed_dim: Option<i64>,
    pub num_class_embeds: Option<i64>,
    pub upcast_attention: Option<bool>,
    pub resnet_time_scale_shift: TimeScaleShift,
    pub projection_class_embeddings_input_dim: Option<i64>,
    pub controlnet_conditioning_channel_order: ChannelOrder,
    pub conditioning_embedding_out_channels: Vec<i64>,
    pub global_pool_conditions: bool,
    pub addition_embed_type_num_heads: i64,
}

impl Default for ControlNetModelConfig {
    fn default() -> Self {
        let hint = HintConfig::default();
        let (cross, plain) = (DownBlockType::CrossAttnDownBlock2D, DownBlockType::DownBlock2D);
        Self {
            in_channels: 4,
            conditioning_channels: hint.conditioning_channels,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![cross, cross, cross, plain],
            mid_block_type: MidBlockType::UNetMidBlock2DCrossAttn,
            only_cross_attention: PerLevel::One(false),
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: 2,
            downsample_padding: 1,
            mid_block_scale_factor: 1.0,
            act_fn: Activation::Silu,
            norm_num_groups: Some(32),
            norm_eps: 1e-5,
            cross_attention_dim: 1280,
            transformer_layers_per_block: PerLevel::One(1),
            encoder_hid_dim: None,
            encoder_hid_dim_type: None,
            attention_head_dim: PerLevel::One(Some(8)),
            num_attention_heads: None,
            use_linear_projection: false,
            class_embed_type: None,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            num_class_embeds: None,
            upcast_attention: Some(false),
            resnet_time_scale_shift: TimeScaleShift::Default,
            projection_class_embeddings_input_dim: None,
            controlnet_conditioning_channel_order: hint.controlnet_conditioning_channel_order,
            conditioning_embedding_out_channels: hint.conditioning_embedding_out_channels,
            global_pool_conditions: hint.global_pool_conditions,
            addition_embed_type_num_heads: 64,
        }
    }
}

impl ControlNetModelConfig {
    /// The published ones for Stable Diffusion 1.5: 361,279,120 parameters.
    pub fn sd_1_5() -> Self {
        Self { cross_attention_dim: 768, ..Self::default() }
    }

    /// The configuration of a ControlNet for this UNet; an error names what the class does not have.
    pub fn from_unet(unet: &UNet2DConditionModelConfig, hint: HintConfig) -> Result<Self> {
        let missing = |field: &str, wanted: &str| {
            Error::config(field, format!("diffusers' ControlNetModel needs {wanted} here"))
        };
        let PerLevel::One(layers) = unet.layers_per_block else {
            return Err(missing("layers_per_block", "one number for all levels"));
        };
        let Some(PerLevel::One(context)) = unet.cross_attention_dim else {
            return Err(missing("cross_attention_dim", "one number for all levels"));
        };
        let mid = unet.mid_block_type.ok_or_else(|| missing("mid_block_type", "a middle"))?;
        let depth = match &unet.transformer_layers_per_block {
            Depth::One(n) => PerLevel::One(*n),
            Depth::Each(each) => {
                let one = |d: &PerLevel<usize>| if let PerLevel::One(n) = d { Some(*n) } else { None };
                let each = each.iter().map(one).collect::<Option<_>>();
                let wanted = "one number for each level, not a list";
                PerLevel::Each(each.ok_or_else(|| missing("transformer_layers_per_block", wanted))?)
            }
        };
        let config = Self {
            in_channels: unet.in_channels,
            conditioning_channels: hint.conditioning_channels,
            flip_sin_to_cos: unet.flip_sin_to_cos,
            freq_shift: unet.freq_shift,
            down_block_types: unet.down_block_types.clone(),
            mid_block_type: mid,
            only_cross_attention: unet.only_cross_attention.clone(),
            block_out_channels: unet.block_out_channels.clone(),
            layers_per_block: layers,
            downsample_padding: unet.downsample_padding,
            mid_block_scale_factor: unet.mid_block_scale_factor,
            act_fn: unet.act_fn,
            norm_num_groups: unet.norm_num_groups,
            norm_eps: unet.norm_eps,
            cross_attention_dim: context,
            transformer_layers_per_block: depth,
            encoder_hid_dim: unet.encoder_hid_dim,
            encoder_hid_dim_type: unet.encoder_hid_dim_type.clone(),
            attention_head_dim: unet.attention_head_dim.clone(),
            num_attention_heads: unet.num_attention_heads.clone(),
            use_linear_projection: unet.use_linear_projection,
            class_embed_type: unet.class_embed_type,
            addition_embed_type: unet.addition_embed_type.clone(),
            addition_time_embed_dim: unet.addition_time_embed_dim,
            num_class_embeds: unet.num_class_embeds,
            upcast_attention: unet.upcast_attention,
            resnet_time_scale_shift: unet.resnet_time_scale_shift,
            projection_class_embeddings_input_dim: unet.projection_class_embeddings_input_dim,
            controlnet_conditioning_channel_order: hint.controlnet_conditioning_channel_order,
            conditioning_embedding_out_channels: hint.conditioning_embedding_out_channels,
            global_pool_conditions: hint.global_pool_conditions,
            addition_embed_type_num_heads: unet.addition_embed_type_num_heads,
        };
        config.same_encoder(unet)?;
        Ok(config)
    }

    /// How it takes its hint.
    pub fn hint(&self) -> HintConfig {
        HintConfig {
            conditioning_channels: self.conditioning_channels,
            conditioning_embedding_out_channels: self.conditioning_embedding_out_channels.clone(),
            controlnet_conditioning_channel_order: self.controlnet_conditioning_channel_order,
            global_pool_conditions: self.global_pool_conditions,
        }
    }

    /// The encoder's blocks, as those of a UNet; an error names the field that cannot be honoured.
    pub fn plan(&self) -> Result<Plan> {
        let mut plan = self.as_unet()?.plan()?;
        if let Some(ClassPlan::Timestep(activation)) = &mut plan.conditioning.class {
            *activation = Activation::Silu; // Whatever `act_fn` is.
        }
        Ok(plan)
    }

    /// Whether diffusers' class uses what the fields ask for.
    fn covered(&self) -> Result<()> {
        let unused = |field: &str, value: &str| {
            let reason =
                format!("{value}: diffusers' ControlNetModel makes such layers and does not use them");
            Err(Error::config(field, reason))
        };
        if let Some(n) = self.encoder_hid_dim {
            return unused("encoder_hid_dim", &n.to_string());
        }
        if let Some(kind) = &self.encoder_hid_dim_type {
            return unused("encoder_hid_dim_type", kind);
        }
        if let Some(kind) =
            self.addition_embed_type.as_deref().filter(|kind| !matches!(*kind, "text" | "text_time"))
        {
            let reason = format!("{kind}: a ControlNet knows text and text_time");
            return Err(Error::config("addition_embed_type", reason));
        }
        if self.class_embed_type == Some(ClassEmbedType::SimpleProjection) {
            let reason = "simple_projection: a ControlNet knows timestep, identity and projection";
            return Err(Error::config("class_embed_type", reason));
        }
        if self.mid_block_type == MidBlockType::UNetMidBlock2DSimpleCrossAttn {
            let reason = "UNetMidBlock2DSimpleCrossAttn: a ControlNet knows UNetMidBlock2DCrossAttn and UNetMidBlock2D";
            return Err(Error::config("mid_block_type", reason));
        }
        Ok(())
    }

    /// A UNet of which this is the encoder.
    fn as_unet(&self) -> Result<UNet2DConditionModelConfig> {
        let Self {
            in_channels,
            conditioning_channels: _, // The four of the hint's are in `hint`.
            flip_sin_to_cos,
            freq_shift,
            down_block_types,
            mid_block_type,
            only_cross_attention,
            block_out_channels,
            layers_per_block,
            downsample_padding,
            mid_block_scale_factor,
            act_fn,
            norm_num_groups,
            norm_eps,
            cross_attention_dim,
            transformer_layers_per_block,
            encoder_hid_dim: _, // `covered` refuses both.
            encoder_hid_dim_type: _,
            attention_head_dim,
            num_attention_heads,
            use_linear_projection,
            class_embed_type,
            addition_embed_type,
            addition_time_embed_dim,
            num_class_embeds,
            upcast_attention,
            resnet_time_scale_shift,
            projection_class_embeddings_input_dim,
            controlnet_conditioning_channel_order: _,
            conditioning_embedding_out_channels: _,
            global_pool_conditions: _,
            addition_embed_type_num_heads,
        } = self.clone();
        self.covered()?;
        Ok(UNet2DConditionModelConfig {
            in_channels,
            flip_sin_to_cos,
            freq_shift,
            up_block_types: vec![UpBlockType::UpBlock2D; down_block_types.len()],
            attention_head_dim: heads(attention_head_dim, num_attention_heads, &down_block_types)?,
            down_block_types,
            mid_block_type: Some(mid_block_type),
            only_cross_attention,
            block_out_channels,
            layers_per_block: PerLevel::One(layers_per_block),
            downsample_padding,
            mid_block_scale_factor,
            act_fn,
            norm_num_groups,
            norm_eps,
            cross_attention_dim: Some(PerLevel::One(cross_attention_dim)),
            transformer_layers_per_block: match transformer_layers_per_block {
                PerLevel::One(n) => Depth::One(n),
                PerLevel::Each(each) => Depth::Each(each.into_iter().map(PerLevel::One).collect()),
            },
            use_linear_projection,
            class_embed_type,
            addition_embed_type,
            addition_time_embed_dim,
            num_class_embeds,
            upcast_attention,
            resnet_time_scale_shift,
            projection_class_embeddings_input_dim,
            addition_embed_type_num_heads,
            ..UNet2DConditionModelConfig::default()
        })
    }

    /// Whether the encoder is that of `unet`: the class has no field for much that a UNet can have.
    fn same_encoder(&self, unet: &UNet2DConditionModelConfig) -> Result<()> {
        /// What makes no difference to the encoder.
        const OTHERS: [&str; 7] = [
            "sample_size",
            "out_channels",
            "up_block_types",
            "conv_out_kernel",
            "dropout",
            "reverse_transformer_layers_per_block",
            "upcast_attention",
        ];
        let fields = |config: &UNet2DConditionModelConfig| {
            serde_json::to_value(config).map_err(|e| Error::config("unet", e.to_string()))
        };
        let (ours, theirs) = (fields(&self.as_unet()?)?, fields(unet)?);
        let differs = |field: &&String| !OTHERS.contains(&field.as_str()) && ours[*field] != theirs[*field];
        match theirs.as_object().into_iter().flat_map(|map| map.keys()).find(differs) {
            None => Ok(()),
            Some(field) => {
                let reason = format!("{}: a ControlNet has {} here, always", theirs[field], ours[field]);
                Err(Error::config(field, reason))
            }
        }
    }
}

/// `attention_head_dim` as a UNet has it, which is the number of heads; a ControlNet may give them apart.
fn heads(
    head_dim: PerLevel<Option<i64>>,
    heads: Option<PerLevel<i64>>,
    blocks: &[DownBlockType],
) -> Result<PerLevel<Option<i64>>> {
    let Some(heads) = heads else { return Ok(head_dim) };
    let goes_by_heads = |block: &DownBlockType| {
        matches!(block, DownBlockType::DownBlock2D | DownBlockType::CrossAttnDownBlock2D)
    };
    if let Some(block) = blocks.iter().find(|block| !goes_by_heads(block)) {
        let reason = format!("is given, and {block:?} goes by attention_head_dim: leave it out");
        return Err(Error::config("num_attention_heads", reason));
    }
    Ok(match heads {
        PerLevel::One(n) => PerLevel::One(Some(n)),
        PerLevel::Each(each) => PerLevel::Each(each.into_iter().map(Some).collect()),
    })
}
