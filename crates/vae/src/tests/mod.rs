//! Laws, and the same numbers as diffusers for the same weights.

mod golden;
mod latents;
mod training;

use crate::{AutoencoderKLConfig, AutoencoderKl};
use tch::{Device, Kind, Tensor, nn};

/// A unit Gaussian of this shape.
fn randn(size: &[i64]) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu))
}

/// A small autoencoder of 3 channels, a fourth of the side, and its weights.
fn small() -> (nn::VarStore, AutoencoderKl) {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let config = AutoencoderKLConfig { norm_num_groups: 2, ..AutoencoderKLConfig::new(2, &[4, 4, 8], 1) };
    let autoencoder = AutoencoderKl::new(&vars.root(), &config).unwrap();
    (vars, autoencoder)
}
