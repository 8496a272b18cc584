//! What the configurations of diffusers' autoencoders have in common.

use heldout_core::{Error, Result};
use heldout_nn::Activation;
use serde::{Deserialize, Serialize};

/// diffusers' blocks of an encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names are diffusers'")]
pub enum EncoderBlockType {
    DownEncoderBlock2D,
    AttnDownEncoderBlock2D,
}

impl EncoderBlockType {
    pub(crate) fn attends(&self) -> bool {
        *self == Self::AttnDownEncoderBlock2D
    }
}

/// diffusers' blocks of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[allow(missing_docs, reason = "the names are diffusers'")]
pub enum DecoderBlockType {
    UpDecoderBlock2D,
    AttnUpDecoderBlock2D,
}

impl DecoderBlockType {
    pub(crate) fn attends(&self) -> bool {
        *self == Self::AttnUpDecoderBlock2D
    }
}

/// Sizes of an encoder and of a decoder.
#[derive(Debug)]
pub(crate) struct CoderShape {
    /// Channels of each resolution, from the image down.
    pub(crate) widths: Vec<i64>,
    /// Residual blocks of a resolution of the encoder; the decoder has one more.
    pub(crate) layers: usize,
    pub(crate) groups: i64,
    pub(crate) activation: Activation,
    pub(crate) mid_attention: bool,
    /// Whether there is attention at each resolution of the encoder, in its order.
    pub(crate) attention_down: Vec<bool>,
    /// The same of the decoder.
    pub(crate) attention_up: Vec<bool>,
}

impl CoderShape {
    /// How many pixels of a side become one place of a latent.
    pub(crate) fn factor(&self) -> i64 {
        1 << (self.widths.len() - 1)
    }

    /// Which field of the configuration cannot be honoured.
    pub(crate) fn check(&self) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        let n = self.widths.len();
        if n == 0 || n > 8 {
            return fail("block_out_channels", format!("{n} resolutions: 1 to 8 are possible"));
        }
        let lists =
            [("down_block_types", self.attention_down.len()), ("up_block_types", self.attention_up.len())];
        if let Some((field, found)) = lists.into_iter().find(|(_, found)| *found != n) {
            return fail(field, format!("{found} blocks for the {n} levels of block_out_channels"));
        }
        if self.groups < 1 {
            return fail("norm_num_groups", format!("{}: at least 1 is needed", self.groups));
        }
        if let Some(w) = self.widths.iter().find(|w| **w < 1 || *w % self.groups != 0) {
            let reason = format!("{w} is no positive multiple of norm_num_groups = {}", self.groups);
            return fail("block_out_channels", reason);
        }
        at_least_one(&[("layers_per_block", self.layers as i64)])
    }
}

/// That none of these is 0 or less.
pub(crate) fn at_least_one(fields: &[(&str, i64)]) -> Result<()> {
    match fields.iter().find(|(_, n)| *n < 1) {
        Some((field, n)) => Err(Error::config(*field, format!("{n}: at least 1 is needed"))),
        None => Ok(()),
    }
}

/// `[c, H/f, W/f]` for images `[C, H, W]` of `channels` channels.
pub(crate) fn latent_shape(
    [c, height, width]: [i64; 3],
    channels: i64,
    latent_channels: i64,
    factor: i64,
) -> Result<[i64; 3]> {
    if c != channels {
        return Err(Error::config("in_channels", format!("{channels}, but the images have {c} channels")));
    }
    if height < factor || width < factor || height % factor != 0 || width % factor != 0 {
        let reason = format!("{height}x{width}: the autoencoder needs sides that are multiples of {factor}");
        return Err(Error::config("images", reason));
    }
    Ok([latent_channels, height / factor, width / factor])
}
