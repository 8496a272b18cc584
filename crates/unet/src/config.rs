//! Sizes of a UNet.

use heldout_core::{Error, Result};
use heldout_nn::ResBlockShape;
use serde::{Deserialize, Serialize};

/// Sizes of a UNet; the fields carry the names of diffusers' `UNet2DModel` where it has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Groups of the norms.
    pub norm_num_groups: i64,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Probability of zeroing inside the residual blocks.
    pub dropout: f64,
}

impl UNetConfig {
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
        Ok(())
    }

    /// Whether images of this shape fit: channels, and sides that halve at every resolution but the last.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        if channels != self.in_channels {
            let reason =
                format!("{} for images of {channels} channels: they must be equal", self.in_channels);
            return Err(Error::config("in_channels", reason));
        }
        let factor = 1 << (self.block_out_channels.len() - 1);
        if height % factor != 0 || width % factor != 0 {
            let reason = format!(
                "{height}x{width} images cannot be halved {} times",
                self.block_out_channels.len() - 1
            );
            return Err(Error::config("block_out_channels", reason));
        }
        Ok(())
    }

    /// Width of the time embedding.
    pub fn embedding(&self) -> i64 {
        4 * self.block_out_channels[0]
    }

    /// A residual block of this network.
    pub(crate) fn block(&self, from: i64, to: i64) -> ResBlockShape {
        ResBlockShape {
            from,
            to,
            embedding: self.embedding(),
            norm_groups: self.norm_num_groups,
            norm_eps: self.norm_eps,
            dropout: self.dropout,
        }
    }
}
