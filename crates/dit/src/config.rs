//! Sizes of a diffusion transformer.

use heldout_core::{Error, Result};
use heldout_nn::{FeedForwardKind, QkNorm, TimeAttention, TimeEmbeddingConfig};
use serde::{Deserialize, Serialize};

/// Where places are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// Fixed sines and cosines, added to the tokens.
    #[default]
    SinCos,
    /// Queries and keys are turned; Su et al. 2021.
    Rotary,
}

/// The norm before each attention and feed-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// Layer norm without weights.
    #[default]
    Layer,
    /// Root mean square with weights.
    Rms,
}

/// Where the embedders of time and class are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum EmbedderPlace {
    /// One for all blocks, as in the paper.
    #[default]
    Shared,
    /// One in each block, as diffusers has it; the last layer takes that of the first block.
    EachBlock,
}

/// Sizes of a diffusion transformer; Peebles and Xie 2023, Table 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DitConfig {
    /// Channels of the images or latents.
    pub in_channels: i64,
    /// Channels of the prediction: twice as many where a variance is learned.
    pub out_channels: i64,
    /// Side of the images that positions are made for.
    pub sample_size: i64,
    /// Side of a patch.
    pub patch_size: i64,
    /// Blocks.
    pub depth: usize,
    /// Width of a token.
    pub width: i64,
    /// Attention heads; they divide the width.
    pub heads: i64,
    /// Classes; the null class comes on top. 0 for none.
    pub num_classes: i64,
    /// Probability that training takes a class for the null class.
    pub label_dropout: f64,
    /// Width of the feed-forward, in widths of a token.
    pub mlp_ratio: f64,
    /// What stands between its layers.
    pub feed_forward: FeedForwardKind,
    /// Where places are told.
    pub positions: Positions,
    /// The norms.
    pub norm: NormKind,
    /// Epsilon of the norm before the feed-forward; all others have 1e-6.
    pub norm_eps: f64,
    /// Whether that norm has weights of its own.
    pub norm_affine: bool,
    /// Norm of queries and keys.
    pub qk_norm: QkNorm,
    /// Whether queries, keys and values have a bias.
    pub attention_bias: bool,
    /// Probability of zeroing inside the blocks.
    pub dropout: f64,
    /// How the network sees the noise level.
    pub time_embedding: TimeEmbeddingConfig,
    /// Where time enters the attention layers.
    pub time_attention: TimeAttention,
    /// Where the embedders are.
    pub embedders: EmbedderPlace,
}

/// Width of the features of the noise level.
pub(crate) const FEATURES: i64 = 256;

/// A learned MLP on sinusoids. diffusers spaces their frequencies with a shift of 1, the paper's own code with 0: ours are
/// diffusers', so that what is trained here opens there.
pub(crate) fn sinusoidal(freq_shift: f64) -> TimeEmbeddingConfig {
    let of = TimeEmbeddingConfig::Sinusoidal { flip_sin_to_cos: true, freq_shift };
    TimeEmbeddingConfig::Mlp { of: Box::new(of) }
}

impl Default for DitConfig {
    /// S/2.
    fn default() -> Self {
        Self::small(2)
    }
}

impl DitConfig {
    fn sized(depth: usize, width: i64, heads: i64, patch_size: i64) -> Self {
        Self {
            in_channels: 4,
            out_channels: 8,
            sample_size: 32,
            patch_size,
            depth,
            width,
            heads,
            num_classes: 1000,
            label_dropout: 0.1,
            mlp_ratio: 4.0,
            feed_forward: FeedForwardKind::GeluApproximate,
            positions: Positions::SinCos,
            norm: NormKind::Layer,
            norm_eps: 1e-6,
            norm_affine: false,
            qk_norm: QkNorm::None,
            attention_bias: true,
            dropout: 0.0,
            time_embedding: sinusoidal(1.0),
            time_attention: TimeAttention::None,
            embedders: EmbedderPlace::Shared,
        }
    }

    /// DiT-S of 256-pixel images' latents, 32x32x4.
    pub fn small(patch: i64) -> Self {
        Self::sized(12, 384, 6, patch)
    }

    /// DiT-B.
    pub fn base(patch: i64) -> Self {
        Self::sized(12, 768, 12, patch)
    }

    /// DiT-L.
    pub fn large(patch: i64) -> Self {
        Self::sized(24, 1024, 16, patch)
    }

    /// DiT-XL.
    pub fn extra_large(patch: i64) -> Self {
        Self::sized(28, 1152, 16, patch)
    }

    /// As the paper's own code computes: frequencies of time without a shift, one epsilon, shared embedders.
    #[must_use]
    pub fn original(self) -> Self {
        Self { time_embedding: sinusoidal(0.0), norm_eps: 1e-6, embedders: EmbedderPlace::Shared, ..self }
    }

    /// With the options of Yao et al. 2025 (LightningDiT): root mean square norms, SwiGLU of two thirds the width, rotary
    /// positions, normed queries and keys.
    #[must_use]
    pub fn modern(self) -> Self {
        Self {
            norm: NormKind::Rms,
            feed_forward: FeedForwardKind::Swiglu,
            mlp_ratio: 8.0 / 3.0,
            positions: Positions::Rotary,
            qk_norm: QkNorm::Rms,
            ..self
        }
    }

    /// Width of the feed-forward.
    pub(crate) fn inner(&self) -> i64 {
        (self.width as f64 * self.mlp_ratio) as i64
    }

    /// Rows of the table of classes.
    pub(crate) fn class_rows(&self) -> i64 {
        self.num_classes + i64::from(self.label_dropout > 0.0)
    }

    /// Which field cannot be honoured, and why.
    pub fn check(&self) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        let Self { width, heads, patch_size, sample_size, .. } = *self;
        for (field, n) in [
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("patch_size", patch_size),
            ("heads", heads),
            ("depth", self.depth as i64),
        ] {
            if n < 1 {
                return fail(field, format!("{n}: at least 1 is needed"));
            }
        }
        if sample_size < patch_size || sample_size % patch_size != 0 {
            return fail(
                "sample_size",
                format!("{sample_size} is not a multiple of patch_size = {patch_size}"),
            );
        }
        if width < 4 || width % 4 != 0 || width % heads != 0 {
            return fail("width", format!("{width} is not a multiple of 4 and of heads = {heads}"));
        }
        if self.positions == Positions::Rotary && width / heads % 4 != 0 {
            return fail(
                "positions",
                format!("rotary needs heads of a multiple of 4, not {}", width / heads),
            );
        }
        if self.num_classes < 0 {
            return fail("num_classes", format!("{}: 0 is the least", self.num_classes));
        }
        for (field, p) in [("label_dropout", self.label_dropout), ("dropout", self.dropout)] {
            if !(0.0..1.0).contains(&p) {
                return fail(field, format!("{p} is not in [0, 1)"));
            }
        }
        if !(self.mlp_ratio.is_finite() && self.inner() >= 1) {
            return fail("mlp_ratio", format!("{} leaves no width", self.mlp_ratio));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return fail("norm_eps", format!("{} is not a positive number", self.norm_eps));
        }
        let is_learned = matches!(self.time_embedding, TimeEmbeddingConfig::Mlp { .. });
        let features = if is_learned { FEATURES } else { width };
        self.time_embedding.check(features).map_err(|e| e.within("time_embedding"))
    }

    /// Whether images of this shape fit: channels, and sides that are cut into patches.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        if channels != self.in_channels {
            let reason =
                format!("{} for images of {channels} channels: they must be equal", self.in_channels);
            return Err(Error::config("in_channels", reason));
        }
        let patch = self.patch_size;
        if height < patch || width < patch || height % patch != 0 || width % patch != 0 {
            let reason = format!("{patch} does not cut images of {height}x{width}");
            return Err(Error::config("patch_size", reason));
        }
        Ok(())
    }
}
