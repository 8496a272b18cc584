#![doc = include_str!("../README.md")]

mod blocks;
mod coder;
mod encoded;
mod gaussian;
mod kl;
mod kl_config;
mod latent_model;
mod scale;
mod statistics;
mod tiled;
mod tiny;
mod training;
mod vq;

pub use blocks::{DecoderBlockType, EncoderBlockType};
pub use encoded::Encoded;
pub use gaussian::DiagonalGaussian;
pub use kl::AutoencoderKl;
pub use kl_config::AutoencoderKLConfig;
pub use latent_model::{LastLayers, LatentModel, Reconstruction, Regularizer};
pub use scale::LatentScale;
pub use statistics::{LatentDrift, LatentStatistics, LatentSums};
pub use tiled::{TileSize, Tiled};
pub use tiny::{AutoencoderTiny, AutoencoderTinyConfig, UpsampleFn};
pub use training::{
    AutoencoderObjective, AutoencoderObjectiveConfig, FrozenMaps, LatentAlignment, LatentAlignmentConfig,
    ObjectiveParts, PatchAdversary, PatchAdversaryConfig, PatchCritic, Perceptual, PixelLoss,
};
pub use vq::{DecoderNormType, Quantized, VQModelConfig, VqModel};

#[cfg(test)]
mod tests;
