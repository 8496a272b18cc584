//! The tiny autoencoder.

use crate::blocks::{at_least_one, latent_shape};
use crate::{LastLayers, LatentModel, LatentScale, Reconstruction, Regularizer};
use heldout_core::{Autoencoder, Error, Result};
use heldout_nn::{Activation, Conv2d};
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

/// How a decoder doubles the resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum UpsampleFn {
    /// By the nearest pixel.
    #[default]
    Nearest,
}

/// The configuration of diffusers' `AutoencoderTiny`, with its defaults.
///
/// `latent_magnitude` and `latent_shift` say how latents are kept as bytes ([`AutoencoderTinyConfig::to_unit`]);
/// `block_out_channels` is written by diffusers and repeats `decoder_block_out_channels`; `force_upcast` tells pipelines to
/// run it in f32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct AutoencoderTinyConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    pub encoder_block_out_channels: Vec<i64>,
    pub decoder_block_out_channels: Vec<i64>,
    pub act_fn: Activation,
    pub upsample_fn: UpsampleFn,
    pub latent_channels: i64,
    pub upsampling_scaling_factor: i64,
    pub num_encoder_blocks: Vec<usize>,
    pub num_decoder_blocks: Vec<usize>,
    pub latent_magnitude: f64,
    pub latent_shift: f64,
    pub force_upcast: bool,
    pub scaling_factor: f64,
    pub shift_factor: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_out_channels: Option<Vec<i64>>,
}

impl Default for AutoencoderTinyConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            encoder_block_out_channels: vec![64; 4],
            decoder_block_out_channels: vec![64; 4],
            act_fn: Activation::Relu,
            upsample_fn: UpsampleFn::Nearest,
            latent_channels: 4,
            upsampling_scaling_factor: 2,
            num_encoder_blocks: vec![1, 3, 3, 3],
            num_decoder_blocks: vec![3, 3, 3, 1],
            latent_magnitude: 3.0,
            latent_shift: 0.5,
            force_upcast: false,
            scaling_factor: 1.0,
            shift_factor: 0.0,
            block_out_channels: None,
        }
    }
}

impl AutoencoderTinyConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        at_least_one(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
        ])?;
        for (side, widths, blocks) in [
            ("encoder", &self.encoder_block_out_channels, &self.num_encoder_blocks),
            ("decoder", &self.decoder_block_out_channels, &self.num_decoder_blocks),
        ] {
            let field = format!("{side}_block_out_channels");
            if widths.is_empty() || widths.len() > 8 {
                return fail(&field, format!("{} resolutions: 1 to 8 are possible", widths.len()));
            }
            if widths.iter().any(|w| *w < 1 || *w != widths[0]) {
                // diffusers' convolutions between resolutions keep the channels, so that other widths fit nowhere.
                return fail(&field, format!("{widths:?}: one width from 1 up at all resolutions is needed"));
            }
            if blocks.len() != widths.len() {
                let reason = format!("{} numbers for the {} of {field}", blocks.len(), widths.len());
                return fail(&format!("num_{side}_blocks"), reason);
            }
        }
        if self.decoder_block_out_channels.len() != self.encoder_block_out_channels.len() {
            let [n, m] = [&self.decoder_block_out_channels, &self.encoder_block_out_channels].map(Vec::len);
            return fail("decoder_block_out_channels", format!("{n} resolutions, but the encoder has {m}"));
        }
        if self.upsampling_scaling_factor != 2 {
            let reason = format!("{}: 2 is needed, since the encoder halves", self.upsampling_scaling_factor);
            return fail("upsampling_scaling_factor", reason);
        }
        if self.block_out_channels.as_ref().is_some_and(|w| *w != self.decoder_block_out_channels) {
            return fail(
                "block_out_channels",
                "differs from decoder_block_out_channels: leave it out".into(),
            );
        }
        if !(self.latent_magnitude > 0.0 && self.latent_shift.is_finite()) {
            return fail("latent_magnitude", format!("{}: more than 0 is needed", self.latent_magnitude));
        }
        self.latent_scale().check(self.latent_channels).map_err(|e| e.within("scaling_factor"))
    }

    fn latent_scale(&self) -> LatentScale {
        LatentScale::uniform(self.shift_factor, self.scaling_factor)
    }

    /// `[c, h, w]` of the latents of images `[C, H, W]`, or why it cannot take them.
    pub fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]> {
        let factor = 1 << (self.encoder_block_out_channels.len() - 1);
        latent_shape(images, self.in_channels, self.latent_channels, factor)
    }

    /// Latents without scale in `[0, 1]`, as they are kept in images: diffusers' `scale_latents`.
    pub fn to_unit(&self, z: &Tensor) -> Tensor {
        (z / (2.0 * self.latent_magnitude) + self.latent_shift).clamp(0.0, 1.0)
    }

    /// The way back: diffusers' `unscale_latents`.
    pub fn from_unit(&self, unit: &Tensor) -> Tensor {
        (unit - self.latent_shift) * (2.0 * self.latent_magnitude)
    }
}

/// Three convolutions plus the input.
#[derive(Debug)]
struct Block {
    convs: [Conv2d; 3],
    activation: Activation,
}

impl Block {
    fn new(vs: &nn::Path<'_>, channels: i64, activation: Activation) -> Self {
        let convs = [0, 2, 4].map(|i| Conv2d::new(&(vs / "conv" / i), channels, channels, 3, 1));
        Self { convs, activation }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let [first, second, third] = &self.convs;
        let h = self.activation.apply(&first.forward(x));
        let h = self.activation.apply(&second.forward(&h));
        Activation::Relu.apply(&(third.forward(&h) + x)) // whatever the activation is, as in diffusers
    }
}

#[derive(Debug)]
enum Layer {
    Conv(Conv2d),
    Block(Block),
    Activation(Activation),
    Double,
}

impl Layer {
    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Self::Conv(conv) => conv.forward(x),
            Self::Block(block) => block.forward(x),
            Self::Activation(activation) => activation.apply(x),
            Self::Double => heldout_nn::Resample::Nearest.forward(x),
        }
    }
}

/// A list of layers that counts their names up.
struct Stack<'a> {
    vs: nn::Path<'a>,
    layers: Vec<Layer>,
}

impl Stack<'_> {
    fn conv(&mut self, from: i64, to: i64, stride: i64, bias: bool) {
        let vs = &self.vs / self.layers.len();
        self.layers.push(Layer::Conv(Conv2d::with_bias(&vs, [from, to, 3, stride], 1, bias)));
    }

    fn blocks(&mut self, n: usize, channels: i64, activation: Activation) {
        for _ in 0..n {
            let vs = &self.vs / self.layers.len();
            self.layers.push(Layer::Block(Block::new(&vs, channels, activation)));
        }
    }
}

/// An autoencoder without distribution, of plain convolutions, for work on a CPU and for previews: TAESD (Bohan 2023).
///
/// Structure and parameter names of diffusers' `AutoencoderTiny`.
#[derive(Debug)]
pub struct AutoencoderTiny {
    config: AutoencoderTinyConfig,
    scale: LatentScale,
    encoder: Vec<Layer>,
    decoder: Vec<Layer>,
    last: [Tensor; 2],
}

impl AutoencoderTiny {
    /// Under `vs`: `encoder.layers`, `decoder.layers`.
    ///
    /// # Errors
    /// A field of the configuration that cannot be honoured.
    pub fn new(vs: &nn::Path<'_>, config: &AutoencoderTinyConfig) -> Result<Self> {
        config.check()?;
        let AutoencoderTinyConfig {
            in_channels,
            out_channels,
            encoder_block_out_channels,
            decoder_block_out_channels,
            act_fn,
            upsample_fn: UpsampleFn::Nearest,
            latent_channels,
            upsampling_scaling_factor: _, // checked
            num_encoder_blocks,
            num_decoder_blocks,
            latent_magnitude: _, // for bytes, as the next
            latent_shift: _,
            force_upcast: _,   // for pipelines
            scaling_factor: _, // in `scale`, as the next
            shift_factor: _,
            block_out_channels: _, // checked
        } = config;
        let stack = |side: &str| Stack { vs: vs / side / "layers", layers: Vec::new() };

        let mut encoder = stack("encoder");
        for (i, (&width, &blocks)) in encoder_block_out_channels.iter().zip(num_encoder_blocks).enumerate() {
            match i {
                0 => encoder.conv(*in_channels, width, 1, true),
                _ => encoder.conv(width, width, 2, false),
            }
            encoder.blocks(blocks, width, *act_fn);
        }
        encoder.conv(encoder_block_out_channels[0], *latent_channels, 1, true);

        let mut decoder = stack("decoder");
        decoder.conv(*latent_channels, decoder_block_out_channels[0], 1, true);
        decoder.layers.push(Layer::Activation(*act_fn));
        let n = decoder_block_out_channels.len();
        for (i, (&width, &blocks)) in decoder_block_out_channels.iter().zip(num_decoder_blocks).enumerate() {
            decoder.blocks(blocks, width, *act_fn);
            if i + 1 < n {
                decoder.layers.push(Layer::Double);
                decoder.conv(width, width, 1, false);
            } else {
                decoder.conv(width, *out_channels, 1, true);
            }
        }
        let last = [&encoder, &decoder].map(|stack| match stack.layers.last() {
            Some(Layer::Conv(conv)) => conv.weight.shallow_clone(),
            _ => Tensor::new(),
        });
        let (encoder, decoder) = (encoder.layers, decoder.layers);
        Ok(Self { scale: config.latent_scale(), config: config.clone(), encoder, decoder, last })
    }

    /// What it was built from, with the scale that it has now.
    pub fn config(&self) -> &AutoencoderTinyConfig {
        &self.config
    }

    /// Latents without scale: `[B, C, H, W] -> [B, c, h, w]`.
    pub fn encode_unscaled(&self, x: &Tensor) -> Tensor {
        self.encoder.iter().fold((x + 1.0) / 2.0, |h, layer| layer.forward(&h))
    }

    /// Images of latents without scale: `[B, c, h, w] -> [B, C, H, W]`.
    pub fn decode_unscaled(&self, z: &Tensor) -> Tensor {
        let bounded = (z / 3.0).tanh() * 3.0;
        self.decoder.iter().fold(bounded, |h, layer| layer.forward(&h)) * 2.0 - 1.0
    }
}

impl Autoencoder for AutoencoderTiny {
    fn encode(&self, x: &Tensor) -> Tensor {
        self.scale.apply(&self.encode_unscaled(x))
    }

    fn decode(&self, z: &Tensor) -> Tensor {
        self.decode_unscaled(&self.scale.invert(z))
    }
}

impl LatentModel for AutoencoderTiny {
    fn reconstruct(&self, x: &Tensor) -> Reconstruction {
        let latents = self.encode_unscaled(x);
        Reconstruction { x_hat: self.decode_unscaled(&latents), latents, regularizer: Regularizer::None }
    }

    fn last_layers(&self) -> LastLayers<'_> {
        LastLayers { encoder: &self.last[0], decoder: &self.last[1] }
    }

    fn latent_scale(&self) -> &LatentScale {
        &self.scale
    }

    fn set_latent_scale(&mut self, scale: LatentScale) -> Result<()> {
        scale.check(self.config.latent_channels)?;
        let Some((shift, factor)) = scale.as_uniform() else {
            let reason = "AutoencoderTiny has one scaling_factor: measure LatentStatistics::uniform_scale";
            return Err(Error::config("latent_scale", reason));
        };
        (self.config.shift_factor, self.config.scaling_factor, self.scale) = (shift, factor, scale);
        Ok(())
    }

    fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]> {
        self.config.latent_shape(images)
    }
}
