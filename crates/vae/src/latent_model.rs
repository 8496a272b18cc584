//! What the autoencoders of this crate have in common besides encoding and decoding.

use crate::LatentScale;
use heldout_core::{Autoencoder, Error, Result};
use tch::Tensor;

/// What a pass through an autoencoder costs besides the error of the reconstruction; `[B]`, with its graph.
#[derive(Debug)]
pub enum Regularizer {
    /// Nothing.
    None,
    /// Divergence of the posterior from the unit Gaussian, in nats of the whole latent.
    Kl(Tensor),
    /// Codebook and commitment loss, a mean over the numbers of the latent.
    Commitment(Tensor),
}

/// One pass through an autoencoder, as in training.
#[derive(Debug)]
pub struct Reconstruction {
    /// `[B, C, H, W]`.
    pub x_hat: Tensor,
    /// What the decoder was given, without shift and scale: `[B, c, h, w]`.
    pub latents: Tensor,
    /// What it costs.
    pub regularizer: Regularizer,
}

/// Weights of the last layers, by whose gradients terms of the loss are balanced.
#[derive(Debug, Clone, Copy)]
pub struct LastLayers<'a> {
    /// Of the encoder.
    pub encoder: &'a Tensor,
    /// Of the decoder.
    pub decoder: &'a Tensor,
}

/// An autoencoder that can be trained, and whose latents can be brought to unit variance.
///
/// Law: `encode` is `latent_scale().apply` of what the encoder gives; a new scale changes no reconstruction but by
/// rounding.
pub trait LatentModel: Autoencoder {
    /// Encodes, draws from the posterior where there is one (with libtorch's generator), and decodes; `x` `[B, C, H, W]`.
    fn reconstruct(&self, x: &Tensor) -> Reconstruction;

    /// Weights of the last layers.
    fn last_layers(&self) -> LastLayers<'_>;

    /// What brings its latents to about unit variance.
    fn latent_scale(&self) -> &LatentScale;

    /// Takes another scale, of what the encoder gives: see [`LatentScale::then`].
    ///
    /// # Errors
    /// One that does not fit the channels, or that the configuration of diffusers' class cannot say.
    fn set_latent_scale(&mut self, scale: LatentScale) -> Result<()>;

    /// Moves the scale into weights, and is then 1 itself: for pipelines that know one factor for all channels.
    ///
    /// Law: encoding and decoding give what they gave, but for rounding.
    ///
    /// # Errors
    /// Where there are no weights that can take it.
    fn fold_latent_scale(&mut self) -> Result<()> {
        Err(Error::config("latent_scale", "cannot be moved into the weights of this autoencoder"))
    }

    /// `[c, h, w]` of the latents of images `[C, H, W]`.
    ///
    /// # Errors
    /// Images that it cannot take.
    fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]>;
}
