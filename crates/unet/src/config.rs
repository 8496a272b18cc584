//! Sizes of a UNet, as a recipe writes them.

use crate::diffusers::{
    DownBlockType, MidBlockType, ResampleType, TimeScaleShift, UNet2DModelConfig, UpBlockType,
};
use crate::plan::Plan;
use heldout_core::{Error, Result};
use heldout_nn::{TimeAttention, TimeEmbeddingConfig};
use serde::{Deserialize, Serialize};

/// Sizes of a UNet; the fields carry the names of diffusers' `UNet2DModel` where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UNetConfig {
    /// Channels of the images.
    pub in_channels: i64,
    /// Channels of the prediction.
    pub out_channels: i64,
    /// Channels of each resolution, finest first; every further one halves the image.
    pub block_out_channels: Vec<i64>,
    /// Residual blocks of each resolution on the way down; one more on the way up.
    pub layers_per_block: usize,
    /// Whether each resolution has self-attention after its residual blocks.
    pub attention: Vec<bool>,
    /// Whether the middle has self-attention.
    pub mid_attention: bool,
    /// Channels of an attention head.
    pub attention_head_dim: i64,
    /// Groups of the norms; fewer than the channels of any resolution where time is added.
    pub norm_num_groups: i64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Probability of zeroing inside the residual blocks.
    pub dropout: f64,
    /// How the network sees the noise level.
    #[serde(default)]
    pub time_embedding: TimeEmbeddingConfig,
    /// Where time enters the attention layers.
    #[serde(default)]
    pub time_attention: TimeAttention,
    /// Whether time scales and shifts rather than being added; Dhariwal and Nichol 2021, section 4.2.
    #[serde(default)]
    pub resnet_time_scale_shift: TimeScaleShift,
    /// Whether residual blocks change the resolution rather than convolutions; Dhariwal and Nichol 2021, section 4.
    #[serde(default)]
    pub resample_type: ResampleType,
    /// Rows of the table of classes, a null class counted if there is one; none without classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_class_embeds: Option<i64>,
    /// Width of a vector that is projected and added to the features of the noise level, as the labels of an augmentation
    /// that must not leak; absent in sampling, it is 0. None if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_cond_proj_dim: Option<i64>,
}

impl UNetConfig {
    /// Images of `channels` in and out at these resolutions, finest first: two blocks each, attention in the middle alone,
    /// heads of 8 channels and norms of 8 groups.
    pub fn new(channels: i64, block_out_channels: &[i64]) -> Self {
        Self {
            in_channels: channels,
            out_channels: channels,
            block_out_channels: block_out_channels.to_vec(),
            layers_per_block: 2,
            attention: vec![false; block_out_channels.len()],
            mid_attention: true,
            attention_head_dim: 8,
            norm_num_groups: 8,
            norm_eps: 1e-5,
            dropout: 0.0,
            time_embedding: TimeEmbeddingConfig::default(),
            time_attention: TimeAttention::None,
            resnet_time_scale_shift: TimeScaleShift::Default,
            resample_type: ResampleType::Conv,
            num_class_embeds: None,
            time_cond_proj_dim: None,
        }
    }

    /// Which field cannot be honoured, and why.
    pub fn check(&self) -> Result<()> {
        let Self {
            in_channels,
            out_channels,
            block_out_channels: widths,
            layers_per_block,
            attention,
            mid_attention,
            attention_head_dim: head,
            norm_num_groups: groups,
            norm_eps,
            dropout,
            time_embedding,
            time_attention: _,
            resnet_time_scale_shift: time_scale_shift,
            resample_type: _,
            num_class_embeds,
            time_cond_proj_dim,
        } = self;
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        if *in_channels < 1 || *out_channels < 1 {
            return fail("in_channels", format!("{in_channels} in and {out_channels} out: at least 1 each"));
        }
        if widths.is_empty() || widths.len() > 8 {
            return fail("block_out_channels", format!("{} resolutions: 1 to 8 are possible", widths.len()));
        }
        if attention.len() != widths.len() {
            let reason =
                format!("{} entries for the {} of block_out_channels", attention.len(), widths.len());
            return fail("attention", reason);
        }
        if *layers_per_block < 1 {
            return fail("layers_per_block", "0 is less than 1".to_owned());
        }
        if *head < 1 || *groups < 1 {
            return fail("attention_head_dim", format!("{head} and {groups} norm groups: at least 1 each"));
        }
        if let Some(w) = widths.iter().find(|w| **w < 2 || *w % 2 != 0 || *w % groups != 0) {
            return fail(
                "block_out_channels",
                format!("{w} is not even and divisible by norm_num_groups = {groups}"),
            );
        }
        if *time_scale_shift == TimeScaleShift::Default && widths.contains(groups) {
            let reason = format!(
                "{groups} groups for {groups} channels: a norm of one channel takes out what time and class add to it; \
                 take fewer groups, or resnet_time_scale_shift = \"scale_shift\""
            );
            return fail("norm_num_groups", reason);
        }
        let mid = widths.last().filter(|_| *mid_attention);
        let attended = widths.iter().zip(attention).filter(|(_, a)| **a).map(|(w, _)| w).chain(mid);
        if let Some(w) = attended.into_iter().find(|w| *w % head != 0) {
            return fail("attention_head_dim", format!("{head} does not divide {w} channels"));
        }
        if !(norm_eps.is_finite() && *norm_eps > 0.0) {
            return fail("norm_eps", format!("{norm_eps} is not a positive number"));
        }
        if !(0.0..1.0).contains(dropout) {
            return fail("dropout", format!("{dropout} is not in [0, 1)"));
        }
        if num_class_embeds.is_some_and(|n| n < 1) {
            return fail("num_class_embeds", "0: at least 1 is needed, or leave it out".to_owned());
        }
        if time_cond_proj_dim.is_some_and(|n| n < 1) {
            return fail("time_cond_proj_dim", "0: at least 1 is needed, or leave it out".to_owned());
        }
        if time_cond_proj_dim.is_some() && !matches!(time_embedding, TimeEmbeddingConfig::Mlp { .. }) {
            return fail(
                "time_cond_proj_dim",
                "needs a time_embedding of kind mlp, into which it goes".to_owned(),
            );
        }
        time_embedding.check(widths[0]).map_err(|e| e.within("time_embedding"))
    }

    /// Whether images of this shape fit: channels, and sides that halve at every resolution but the last.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        self.plan()?.check_images(channels, height, width)
    }

    /// Every block with its sizes.
    pub fn plan(&self) -> Result<Plan> {
        self.check()?;
        let mut plan = self.as_unet2d(TimeEmbeddingConfig::default())?.plan()?;
        plan.conditioning.time = self.time_embedding.clone();
        plan.conditioning.mlp.cond = self.time_cond_proj_dim;
        plan.time_in_attention(self.time_attention);
        plan.check()?;
        Ok(plan)
    }

    /// The same network as diffusers' `UNet2DModel`; an error names what that class does not have.
    pub fn to_diffusers(&self) -> Result<UNet2DModelConfig> {
        if self.time_attention != TimeAttention::None {
            let reason = "UNet2DModel has no time in its attention: only none can be exported";
            return Err(Error::config("time_attention", reason));
        }
        if self.time_cond_proj_dim.is_some() {
            let reason = "UNet2DModel adds nothing to the features of the noise level: it cannot be exported";
            return Err(Error::config("time_cond_proj_dim", reason));
        }
        self.as_unet2d(self.time_embedding.clone())
    }

    fn as_unet2d(&self, time: TimeEmbeddingConfig) -> Result<UNet2DModelConfig> {
        let (flip_sin_to_cos, freq_shift) = match time {
            TimeEmbeddingConfig::Mlp { of } => match *of {
                TimeEmbeddingConfig::Sinusoidal { flip_sin_to_cos, freq_shift } => {
                    (flip_sin_to_cos, freq_shift)
                }
                _ => return Err(not_exported()),
            },
            _ => return Err(not_exported()),
        };
        let resnet = self.resample_type == ResampleType::Resnet;
        let down = |attends: &bool| match (attends, resnet) {
            (true, _) => DownBlockType::AttnDownBlock2D,
            (false, true) => DownBlockType::ResnetDownsampleBlock2D,
            (false, false) => DownBlockType::DownBlock2D,
        };
        let up = |attends: &bool| match (attends, resnet) {
            (true, _) => UpBlockType::AttnUpBlock2D,
            (false, true) => UpBlockType::ResnetUpsampleBlock2D,
            (false, false) => UpBlockType::UpBlock2D,
        };
        Ok(UNet2DModelConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels,
            flip_sin_to_cos,
            freq_shift,
            down_block_types: self.attention.iter().map(down).collect(),
            up_block_types: self.attention.iter().rev().map(up).collect(),
            mid_block_type: Some(MidBlockType::UNetMidBlock2D),
            block_out_channels: self.block_out_channels.clone(),
            layers_per_block: self.layers_per_block,
            downsample_type: self.resample_type,
            upsample_type: self.resample_type,
            dropout: self.dropout,
            attention_head_dim: Some(self.attention_head_dim),
            norm_num_groups: Some(self.norm_num_groups),
            attn_norm_num_groups: Some(self.norm_num_groups),
            norm_eps: self.norm_eps,
            resnet_time_scale_shift: self.resnet_time_scale_shift,
            add_attention: self.mid_attention,
            num_class_embeds: self.num_class_embeds,
            ..UNet2DModelConfig::default()
        })
    }
}

fn not_exported() -> Error {
    Error::config("time_embedding", "only an mlp of sinusoidal can be exported to UNet2DModel")
}
