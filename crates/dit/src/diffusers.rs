//! diffusers' `DiTTransformer2DModel`.

use crate::config::{DitConfig, EmbedderPlace, NormKind, Positions, sinusoidal};
use heldout_core::{Error, Result};
use heldout_nn::{FeedForwardKind, QkNorm, TimeAttention};
use serde::{Deserialize, Serialize};

/// The configuration of diffusers' `DiTTransformer2DModel`, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct DiTTransformer2DModelConfig {
    pub num_attention_heads: i64,
    pub attention_head_dim: i64,
    pub in_channels: i64,
    pub out_channels: Option<i64>,
    pub num_layers: usize,
    pub dropout: f64,
    pub norm_num_groups: i64,
    pub attention_bias: bool,
    pub sample_size: i64,
    pub patch_size: i64,
    pub activation_fn: FeedForwardKind,
    pub num_embeds_ada_norm: i64,
    pub upcast_attention: bool,
    pub norm_type: String,
    pub norm_elementwise_affine: bool,
    pub norm_eps: f64,
}

impl Default for DiTTransformer2DModelConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: None,
            num_layers: 28,
            dropout: 0.0,
            norm_num_groups: 32,
            attention_bias: true,
            sample_size: 32,
            patch_size: 2,
            activation_fn: FeedForwardKind::GeluApproximate,
            num_embeds_ada_norm: 1000,
            upcast_attention: false,
            norm_type: "ada_norm_zero".to_owned(),
            norm_elementwise_affine: false,
            norm_eps: 1e-5,
        }
    }
}

impl DiTTransformer2DModelConfig {
    /// The network that this stands for; an error names the field that cannot be honoured.
    pub fn config(&self) -> Result<DitConfig> {
        if self.norm_type != "ada_norm_zero" {
            return Err(Error::config("norm_type", format!("{}: only ada_norm_zero is one", self.norm_type)));
        }
        let config = DitConfig {
            in_channels: self.in_channels,
            out_channels: self.out_channels.unwrap_or(self.in_channels),
            sample_size: self.sample_size,
            patch_size: self.patch_size,
            depth: self.num_layers,
            width: self.num_attention_heads * self.attention_head_dim,
            heads: self.num_attention_heads,
            num_classes: self.num_embeds_ada_norm,
            label_dropout: 0.1,
            mlp_ratio: 4.0,
            feed_forward: self.activation_fn,
            positions: Positions::SinCos,
            norm: NormKind::Layer,
            norm_eps: self.norm_eps,
            norm_affine: self.norm_elementwise_affine,
            qk_norm: QkNorm::None,
            attention_bias: self.attention_bias,
            dropout: self.dropout,
            time_embedding: sinusoidal(1.0),
            time_attention: TimeAttention::None,
            embedders: EmbedderPlace::EachBlock,
        };
        config.check()?;
        Ok(config)
    }

    /// The class's configuration of a network; an error names what the class does not have. Embedders that are shared must
    /// be copied into each block.
    pub fn of(config: &DitConfig) -> Result<Self> {
        let made = Self {
            num_attention_heads: config.heads,
            attention_head_dim: config.width / config.heads,
            in_channels: config.in_channels,
            out_channels: Some(config.out_channels),
            num_layers: config.depth,
            dropout: config.dropout,
            attention_bias: config.attention_bias,
            sample_size: config.sample_size,
            patch_size: config.patch_size,
            activation_fn: config.feed_forward,
            num_embeds_ada_norm: config.num_classes,
            norm_elementwise_affine: config.norm_affine,
            norm_eps: config.norm_eps,
            ..Self::default()
        };
        let back = DitConfig {
            embedders: config.embedders,
            label_dropout: config.label_dropout,
            ..made.config().map_err(|e| e.within("model"))?
        };
        let missing = |field: &str, fits: bool| {
            let reason = "is not known to DiTTransformer2DModel: it cannot be exported to that class";
            if fits { Ok(()) } else { Err(Error::config(field, reason)) }
        };
        missing("norm", back.norm == config.norm)?;
        missing("positions", back.positions == config.positions)?;
        missing("qk_norm", back.qk_norm == config.qk_norm)?;
        missing("mlp_ratio", back.mlp_ratio == config.mlp_ratio)?;
        missing("time_attention", back.time_attention == config.time_attention)?;
        missing("time_embedding", back.time_embedding == config.time_embedding)?;
        missing("num_classes", config.num_classes > 0 && config.label_dropout > 0.0)?;
        Ok(made)
    }
}
