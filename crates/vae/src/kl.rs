//! The KL autoencoder.

use crate::coder::{Decoder, Encoder};
use crate::{
    AutoencoderKLConfig, DiagonalGaussian, LastLayers, LatentModel, LatentScale, Reconstruction, Regularizer,
};
use heldout_core::{Autoencoder, Error, Result};
use heldout_nn::Conv2d;
use tch::{Tensor, nn};

/// Images to Gaussians over latents and back; Kingma and Welling 2014 in the form of Rombach et al. 2022, section 3.1.
///
/// Structure and parameter names of diffusers' `AutoencoderKL`. [`Autoencoder::encode`] gives the mode of the posterior, so
/// that latents are a function of the image and can be kept; [`AutoencoderKl::posterior`] gives all of it.
///
/// Law: no row sees another row.
#[derive(Debug)]
pub struct AutoencoderKl {
    config: AutoencoderKLConfig,
    scale: LatentScale,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
}

impl AutoencoderKl {
    /// Under `vs`: `encoder`, `decoder`, `quant_conv`, `post_quant_conv`.
    ///
    /// # Errors
    /// A field of the configuration that cannot be honoured.
    pub fn new(vs: &nn::Path<'_>, config: &AutoencoderKLConfig) -> Result<Self> {
        config.check()?;
        let (shape, scale) = (config.coder(), config.latent_scale()?);
        let AutoencoderKLConfig {
            in_channels,
            out_channels,
            down_block_types: _, // with the next five in `shape`
            up_block_types: _,
            block_out_channels: _,
            layers_per_block: _,
            act_fn: _,
            norm_num_groups: _,
            mid_block_add_attention: _,
            latent_channels: c,
            sample_size: _,    // the size of a tile
            scaling_factor: _, // with the next three in `scale`
            shift_factor: _,
            latents_mean: _,
            latents_std: _,
            force_upcast: _, // for pipelines
            use_quant_conv,
            use_post_quant_conv,
        } = config;
        let pointwise = |name: &str, n: i64| Conv2d::new(&(vs / name), n, n, 1, 1);
        Ok(Self {
            encoder: Encoder::new(&(vs / "encoder"), &shape, *in_channels, 2 * c),
            decoder: Decoder::new(&(vs / "decoder"), &shape, *c, *out_channels),
            quant_conv: use_quant_conv.then(|| pointwise("quant_conv", 2 * c)),
            post_quant_conv: use_post_quant_conv.then(|| pointwise("post_quant_conv", *c)),
            config: config.clone(),
            scale,
        })
    }

    /// What it was built from, with the scale that it has now.
    pub fn config(&self) -> &AutoencoderKLConfig {
        &self.config
    }

    /// Mean and log variance, without shift and scale: `[B, C, H, W] -> [B, 2c, h, w]`.
    pub fn moments(&self, x: &Tensor) -> Tensor {
        let h = self.encoder.forward(x);
        self.quant_conv.as_ref().map_or_else(|| h.shallow_clone(), |conv| conv.forward(&h))
    }

    /// The distribution of the latents of `x` `[B, C, H, W]`, without shift and scale.
    pub fn posterior(&self, x: &Tensor) -> DiagonalGaussian {
        DiagonalGaussian::of_moments(&self.moments(x))
    }

    /// Images of latents without shift and scale: `[B, c, h, w] -> [B, C, H, W]`.
    pub fn decode_unscaled(&self, z: &Tensor) -> Tensor {
        let z = self.post_quant_conv.as_ref().map_or_else(|| z.shallow_clone(), |conv| conv.forward(z));
        self.decoder.forward(&z)
    }
}

impl Autoencoder for AutoencoderKl {
    fn encode(&self, x: &Tensor) -> Tensor {
        self.scale.apply(self.posterior(x).mode())
    }

    fn decode(&self, z: &Tensor) -> Tensor {
        self.decode_unscaled(&self.scale.invert(z))
    }
}

impl LatentModel for AutoencoderKl {
    fn reconstruct(&self, x: &Tensor) -> Reconstruction {
        let posterior = self.posterior(x);
        let latents = posterior.sample();
        let x_hat = self.decode_unscaled(&latents);
        Reconstruction { x_hat, latents, regularizer: Regularizer::Kl(posterior.kl()) }
    }

    fn last_layers(&self) -> LastLayers<'_> {
        LastLayers { encoder: self.encoder.last(), decoder: self.decoder.last() }
    }

    fn latent_scale(&self) -> &LatentScale {
        &self.scale
    }

    fn set_latent_scale(&mut self, scale: LatentScale) -> Result<()> {
        self.config.set_latent_scale(&scale)?;
        self.scale = scale;
        Ok(())
    }

    /// Into the two pointwise convolutions.
    fn fold_latent_scale(&mut self) -> Result<()> {
        let (Some(quant), Some(post)) = (&self.quant_conv, &self.post_quant_conv) else {
            let reason = "false: a scale can only be moved into these convolutions";
            return Err(Error::config("use_quant_conv, use_post_quant_conv", reason));
        };
        let c = self.config.latent_channels;
        let (shift, scale) = self.scale.by_channel(c);
        tch::no_grad(|| {
            let like = |values: &[f64]| {
                Tensor::from_slice(values).to_kind(quant.weight.kind()).to_device(quant.weight.device())
            };
            let (shift, scale) = (like(&shift), like(&scale));
            // Means are shifted and scaled, log variances move by that of the scale.
            let _ = quant.weight.narrow(0, 0, c).g_mul_(&scale.view([c, 1, 1, 1]));
            if let Some(bias) = &quant.bias {
                let mean = (bias.narrow(0, 0, c) - &shift) * &scale;
                bias.narrow(0, 0, c).copy_(&mean);
                let log_variance = bias.narrow(0, c, c) + scale.abs().log() * 2.0;
                bias.narrow(0, c, c).copy_(&log_variance);
            }
            if let Some(bias) = &post.bias {
                let moved = bias + post.weight.flatten(1, -1).matmul(&shift);
                bias.shallow_clone().copy_(&moved);
            }
            let _ = post.weight.shallow_clone().g_div_(&scale.view([1, c, 1, 1]));
        });
        self.set_latent_scale(LatentScale::identity())
    }

    fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]> {
        self.config.latent_shape(images)
    }
}
