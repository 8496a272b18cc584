//! The configuration of diffusers' `AutoencoderKL`.

use crate::LatentScale;
use crate::blocks::{CoderShape, DecoderBlockType, EncoderBlockType, at_least_one, latent_shape};
use heldout_core::{Error, Result};
use heldout_nn::Activation;
use serde::{Deserialize, Serialize};

/// The configuration of diffusers' `AutoencoderKL`, with its defaults.
///
/// `scaling_factor`, `shift_factor`, `latents_mean` and `latents_std` are its [`LatentScale`], as diffusers' pipelines read
/// them. `force_upcast` tells those pipelines to run it in f32; here it runs in the kind of its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct AutoencoderKLConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    pub down_block_types: Vec<EncoderBlockType>,
    pub up_block_types: Vec<DecoderBlockType>,
    pub block_out_channels: Vec<i64>,
    pub layers_per_block: usize,
    pub act_fn: Activation,
    pub latent_channels: i64,
    pub norm_num_groups: i64,
    pub sample_size: i64,
    pub scaling_factor: f64,
    pub shift_factor: Option<f64>,
    pub latents_mean: Option<Vec<f64>>,
    pub latents_std: Option<Vec<f64>>,
    pub force_upcast: bool,
    pub use_quant_conv: bool,
    pub use_post_quant_conv: bool,
    pub mid_block_add_attention: bool,
}

impl Default for AutoencoderKLConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: Activation::Silu,
            latent_channels: 4,
            norm_num_groups: 32,
            sample_size: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            latents_mean: None,
            latents_std: None,
            force_upcast: true,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

impl AutoencoderKLConfig {
    /// Plain blocks of these widths, one for each resolution; latents as they come, until their scale is measured.
    pub fn new(latent_channels: i64, block_out_channels: &[i64], layers_per_block: usize) -> Self {
        let n = block_out_channels.len();
        Self {
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D; n],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D; n],
            block_out_channels: block_out_channels.to_vec(),
            layers_per_block,
            latent_channels,
            scaling_factor: 1.0,
            ..Self::default()
        }
    }

    /// KL-f4 of Rombach et al. 2022, table 8: latents of 3 channels, a fourth of the side.
    pub fn kl_f4() -> Self {
        Self { sample_size: 256, ..Self::new(3, &[128, 256, 512], 2) }
    }

    /// KL-f8 of Rombach et al. 2022, table 8, as Stable Diffusion 1 and 2 have it: 83,653,863 parameters.
    pub fn kl_f8() -> Self {
        Self { sample_size: 512, scaling_factor: 0.18215, ..Self::new(4, &[128, 256, 512, 512], 2) }
    }

    /// KL-f16 of Rombach et al. 2022, table 8: latents of 16 channels, attention at the lowest resolution.
    pub fn kl_f16() -> Self {
        let mut config = Self { sample_size: 256, ..Self::new(16, &[128, 128, 256, 256, 512], 2) };
        config.down_block_types[4] = EncoderBlockType::AttnDownEncoderBlock2D;
        config.up_block_types[0] = DecoderBlockType::AttnUpDecoderBlock2D;
        config
    }

    /// A fourth of the side for images of 16 to 32 pixels on a CPU.
    pub fn tiny() -> Self {
        let norm_num_groups = 8;
        Self { norm_num_groups, mid_block_add_attention: false, ..Self::new(4, &[16, 32, 32], 1) }
    }

    pub(crate) fn coder(&self) -> CoderShape {
        CoderShape {
            widths: self.block_out_channels.clone(),
            layers: self.layers_per_block,
            groups: self.norm_num_groups,
            activation: self.act_fn,
            mid_attention: self.mid_block_add_attention,
            attention_down: self.down_block_types.iter().map(EncoderBlockType::attends).collect(),
            attention_up: self.up_block_types.iter().map(DecoderBlockType::attends).collect(),
        }
    }

    /// How many pixels of a side become one place of a latent.
    pub fn factor(&self) -> i64 {
        self.coder().factor()
    }

    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let Self { in_channels, out_channels, latent_channels, sample_size, .. } = self;
        at_least_one(&[
            ("in_channels", *in_channels),
            ("out_channels", *out_channels),
            ("latent_channels", *latent_channels),
            ("sample_size", *sample_size),
        ])?;
        self.coder().check()?;
        self.latent_scale().map(drop)
    }

    /// `[c, h, w]` of the latents of images `[C, H, W]`, or why it cannot take them.
    pub fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]> {
        latent_shape(images, self.in_channels, self.latent_channels, self.factor())
    }

    /// What brings its latents to unit variance: `(z - latents_mean) * scaling_factor / latents_std`, or
    /// `(z - shift_factor) * scaling_factor`.
    pub fn latent_scale(&self) -> Result<LatentScale> {
        let Self { scaling_factor, shift_factor, latents_mean, latents_std, .. } = self;
        let scale = match (shift_factor, latents_mean, latents_std) {
            (shift, None, None) => LatentScale::uniform(shift.unwrap_or(0.0), *scaling_factor),
            (None, Some(mean), Some(std)) => {
                let scale = std.iter().map(|std| scaling_factor / std).collect();
                LatentScale { shift: mean.clone(), scale }
            }
            (Some(_), ..) => {
                let reason =
                    "is set beside latents_mean or latents_std: leave it out, since the mean is the shift";
                return Err(Error::config("shift_factor", reason));
            }
            (None, None, _) => return Err(Error::config("latents_mean", "is missing beside latents_std")),
            (None, _, None) => return Err(Error::config("latents_std", "is missing beside latents_mean")),
        };
        let name = |e: Error| e.within("latents_mean, latents_std and scaling_factor");
        scale.check(self.latent_channels).map_err(name)?;
        Ok(scale)
    }

    /// Writes a scale down: as `scaling_factor` and `shift_factor` where it is the same for all channels, since
    /// most pipelines of diffusers look at no others, and else as `latents_mean` and `latents_std`.
    pub fn set_latent_scale(&mut self, latent_scale: &LatentScale) -> Result<()> {
        latent_scale.check(self.latent_channels)?;
        (self.scaling_factor, self.shift_factor, self.latents_mean, self.latents_std) =
            match latent_scale.as_uniform() {
                Some((0.0, scale)) => (scale, None, None, None),
                Some((shift, scale)) => (scale, Some(shift), None, None),
                None => {
                    let (shift, scale) = latent_scale.by_channel(self.latent_channels);
                    (1.0, None, Some(shift), Some(scale.into_iter().map(|scale| 1.0 / scale).collect()))
                }
            };
        Ok(())
    }
}
