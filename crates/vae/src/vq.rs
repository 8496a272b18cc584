//! The vector-quantised autoencoder.

use crate::blocks::{CoderShape, DecoderBlockType, EncoderBlockType, at_least_one, latent_shape};
use crate::coder::{Decoder, Encoder};
use crate::{LastLayers, LatentModel, LatentScale, Reconstruction, Regularizer};
use heldout_core::{Autoencoder, Error, Result};
use heldout_nn::{Activation, Conv2d, variable};
use serde::{Deserialize, Serialize};
use tch::nn::Init;
use tch::{Kind, Tensor, nn};

/// Weight of the codebook's own part of the loss; van den Oord et al. 2017, Eq. 3 has it at the other part. diffusers keeps
/// it here, since published networks were trained so.
const BETA: f64 = 0.25;

/// diffusers' norms of a decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DecoderNormType {
    /// Group norm.
    #[default]
    Group,
    /// Scaled and shifted by the latents, as in MoVQ; not covered.
    Spatial,
}

/// The configuration of diffusers' `VQModel`, with its defaults.
///
/// `lookup_from_codebook` and `force_upcast` tell diffusers' pipelines how to call it; here [`VqModel::decode_codes`] looks
/// codes up, and it runs in the kind of its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct VQModelConfig {
    pub in_channels: i64,
    pub out_channels: i64,
    pub down_block_types: Vec<EncoderBlockType>,
    pub up_block_types: Vec<DecoderBlockType>,
    pub block_out_channels: Vec<i64>,
    pub layers_per_block: usize,
    pub act_fn: Activation,
    pub latent_channels: i64,
    pub sample_size: i64,
    pub num_vq_embeddings: i64,
    pub norm_num_groups: i64,
    pub vq_embed_dim: Option<i64>,
    pub scaling_factor: f64,
    pub norm_type: DecoderNormType,
    pub mid_block_add_attention: bool,
    pub lookup_from_codebook: bool,
    pub force_upcast: bool,
}

impl Default for VQModelConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![EncoderBlockType::DownEncoderBlock2D],
            up_block_types: vec![DecoderBlockType::UpDecoderBlock2D],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: Activation::Silu,
            latent_channels: 3,
            sample_size: 32,
            num_vq_embeddings: 256,
            norm_num_groups: 32,
            vq_embed_dim: None,
            scaling_factor: 0.18215,
            norm_type: DecoderNormType::Group,
            mid_block_add_attention: true,
            lookup_from_codebook: false,
            force_upcast: false,
        }
    }
}

impl VQModelConfig {
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

    /// VQ-f4 of Rombach et al. 2022, table 8: 8192 codes of 3 dimensions, 55,322,782 parameters.
    pub fn vq_f4() -> Self {
        Self { num_vq_embeddings: 8192, sample_size: 256, ..Self::new(3, &[128, 256, 512], 2) }
    }

    fn coder(&self) -> CoderShape {
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

    /// Dimensions of a code.
    pub fn code_width(&self) -> i64 {
        self.vq_embed_dim.unwrap_or(self.latent_channels)
    }

    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        at_least_one(&[
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("latent_channels", self.latent_channels),
            ("sample_size", self.sample_size),
            ("num_vq_embeddings", self.num_vq_embeddings),
            ("vq_embed_dim", self.code_width()),
        ])?;
        if self.norm_type == DecoderNormType::Spatial {
            return Err(Error::config("norm_type", "spatial is not covered: only group is"));
        }
        self.coder().check()?;
        LatentScale::uniform(0.0, self.scaling_factor)
            .check(self.code_width())
            .map_err(|e| e.within("scaling_factor"))
    }

    /// `[c, h, w]` of the latents of images `[C, H, W]`, or why it cannot take them.
    pub fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]> {
        latent_shape(images, self.in_channels, self.code_width(), self.coder().factor())
    }
}

/// Latents that were moved to their nearest codes.
#[derive(Debug)]
pub struct Quantized {
    /// `[B, c, h, w]`; its gradient goes to the latents before, as if nothing had moved.
    pub latents: Tensor,
    /// Number of each code, `[B, h, w]`, `Int64`.
    pub codes: Tensor,
    /// Codebook and commitment loss, `[B]`.
    pub commitment: Tensor,
}

/// Images to latents and, by way of a codebook, back; van den Oord et al. 2017, Esser et al. 2021.
///
/// Structure and parameter names of diffusers' `VQModel`. [`Autoencoder::encode`] gives the latents before they are
/// quantised, [`Autoencoder::decode`] quantises them: Rombach et al. 2022, section 3.1.
#[derive(Debug)]
pub struct VqModel {
    config: VQModelConfig,
    scale: LatentScale,
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Conv2d,
    post_quant_conv: Conv2d,
    /// `[N, c]`.
    codebook: Tensor,
}

impl VqModel {
    /// Under `vs`: `encoder`, `decoder`, `quant_conv`, `post_quant_conv`, `quantize.embedding`.
    ///
    /// # Errors
    /// A field of the configuration that cannot be honoured.
    pub fn new(vs: &nn::Path<'_>, config: &VQModelConfig) -> Result<Self> {
        config.check()?;
        let (shape, width) = (config.coder(), config.code_width());
        let VQModelConfig {
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
            sample_size: _, // the size of the images that it is for
            num_vq_embeddings: n,
            vq_embed_dim: _, // `width`
            scaling_factor,
            norm_type: _,            // checked
            lookup_from_codebook: _, // for pipelines, as the next
            force_upcast: _,
        } = config;
        let bound = 1.0 / *n as f64;
        let start = Init::Uniform { lo: -bound, up: bound };
        Ok(Self {
            encoder: Encoder::new(&(vs / "encoder"), &shape, *in_channels, *c),
            decoder: Decoder::new(&(vs / "decoder"), &shape, *c, *out_channels),
            quant_conv: Conv2d::new(&(vs / "quant_conv"), *c, width, 1, 1),
            post_quant_conv: Conv2d::new(&(vs / "post_quant_conv"), width, *c, 1, 1),
            codebook: variable(&(vs / "quantize" / "embedding"), "weight", &[*n, width], start),
            scale: LatentScale::uniform(0.0, *scaling_factor),
            config: config.clone(),
        })
    }

    /// What it was built from, with the scale that it has now.
    pub fn config(&self) -> &VQModelConfig {
        &self.config
    }

    /// Latents before they are quantised, without scale: `[B, C, H, W] -> [B, c, h, w]`.
    pub fn encode_unscaled(&self, x: &Tensor) -> Tensor {
        self.quant_conv.forward(&self.encoder.forward(x))
    }

    /// Moves each place of `z` `[B, c, h, w]`, without scale, to the nearest code: van den Oord et al. 2017, Eq. 1 and 2.
    pub fn quantize(&self, z: &Tensor) -> Quantized {
        let rows = z.permute([0, 2, 3, 1]); // [B, h, w, c]
        let size = rows.size();
        let codes = tch::no_grad(|| {
            let distances = Tensor::cdist(&rows.reshape([-1, size[3]]), &self.codebook, 2.0, None::<i64>);
            distances.argmin(1, false).view([size[0], size[1], size[2]])
        });
        let nearest = self.look_up(&codes);
        let error = |a: &Tensor, b: &Tensor| heldout_core::mean_flat(&(a - b.detach()).square());
        let commitment = error(z, &nearest) + error(&nearest, z) * BETA;
        Quantized { latents: z + (nearest - z).detach(), codes, commitment }
    }

    /// `[B, h, w]` to `[B, c, h, w]`.
    fn look_up(&self, codes: &Tensor) -> Tensor {
        if let [batch, height, width] = codes.size()[..]
            && heldout_torch_ext::is_meta(codes)
        {
            // libtorch looks nothing up among shapes alone.
            return heldout_torch_ext::meta(
                &[batch, self.config.code_width(), height, width],
                self.codebook.kind(),
            );
        }
        Tensor::embedding(&self.codebook, codes, -1, false, false).permute([0, 3, 1, 2])
    }

    /// Images of codes `[B, h, w]`, `Int64`, each below `num_vq_embeddings`: `[B, C, H, W]`.
    ///
    /// # Errors
    /// Codes of another kind or shape, or that the codebook does not have.
    pub fn decode_codes(&self, codes: &Tensor) -> Result<Tensor> {
        let n = self.config.num_vq_embeddings;
        if codes.kind() != Kind::Int64 || codes.dim() != 3 {
            let reason = format!("{:?} {:?}: Int64 [B, h, w] is needed", codes.kind(), codes.size());
            return Err(Error::config("codes", reason));
        }
        if codes.numel() > 0 {
            let (least, most) = (codes.min().int64_value(&[]), codes.max().int64_value(&[]));
            if least < 0 || most >= n {
                let reason = format!("{least} to {most}: the codebook has 0 to {}", n - 1);
                return Err(Error::config("codes", reason));
            }
        }
        Ok(self.decode_quantized(&self.look_up(codes)))
    }

    /// Images of latents that are codes: `[B, c, h, w] -> [B, C, H, W]`.
    fn decode_quantized(&self, z: &Tensor) -> Tensor {
        self.decoder.forward(&self.post_quant_conv.forward(z))
    }
}

impl Autoencoder for VqModel {
    fn encode(&self, x: &Tensor) -> Tensor {
        self.scale.apply(&self.encode_unscaled(x))
    }

    fn decode(&self, z: &Tensor) -> Tensor {
        self.decode_quantized(&self.quantize(&self.scale.invert(z)).latents)
    }
}

impl LatentModel for VqModel {
    fn reconstruct(&self, x: &Tensor) -> Reconstruction {
        let Quantized { latents, codes: _, commitment } = self.quantize(&self.encode_unscaled(x));
        let x_hat = self.decode_quantized(&latents);
        Reconstruction { x_hat, latents, regularizer: Regularizer::Commitment(commitment) }
    }

    fn last_layers(&self) -> LastLayers<'_> {
        LastLayers { encoder: self.encoder.last(), decoder: self.decoder.last() }
    }

    fn latent_scale(&self) -> &LatentScale {
        &self.scale
    }

    fn set_latent_scale(&mut self, scale: LatentScale) -> Result<()> {
        scale.check(self.config.code_width())?;
        let Some((0.0, factor)) = scale.as_uniform() else {
            let reason =
                "VQModel has one scaling_factor and no shift: measure LatentStatistics::uniform_scale";
            return Err(Error::config("latent_scale", reason));
        };
        (self.config.scaling_factor, self.scale) = (factor, scale);
        Ok(())
    }

    fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]> {
        self.config.latent_shape(images)
    }
}
