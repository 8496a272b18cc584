//! What one pass costs: counted on shapes without storage.

use super::Latent;
use super::field::condition;
use anyhow::Result;
use heldout_adapters::ControlNet;
use heldout_core::{Adapter, Input};
use heldout_nn::{Cost, count, meta, without_storage};
use heldout_vae::LatentScale;
use heldout_weights::{AutoencoderConfig, ComponentConfig, Example};
use std::rc::Rc;
use tch::{Device, Kind, nn};

/// Of what is described.
pub(super) struct Measured {
    /// Its variables, which are shapes.
    pub(super) vars: nn::VarStore,
    /// Of one pass.
    pub(super) cost: Cost,
    /// Of an autoencoder.
    pub(super) latent: Option<Latent>,
}

/// Builds it without storage and runs one image through it.
pub(super) fn measure(config: &ComponentConfig, example: &Example) -> Result<Measured> {
    let vars = nn::VarStore::new(Device::Cpu);
    let root = vars.root();
    let x = meta(&example.sample, Kind::Float);
    let level = meta(&example.sample[..1], Kind::Float);
    let cond = condition(example, |_, dims| meta(dims, Kind::Float));
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    let (cost, latent) = match config {
        ComponentConfig::Network(config) => {
            let backbone = without_storage(|| config.build(&root))?;
            (tch::no_grad(|| count(|| backbone.forward(input, &mut ()))).1, None)
        }
        ComponentConfig::ControlNet(config) => {
            let net = without_storage(|| ControlNet::new(&root, config))?;
            (tch::no_grad(|| count(|| net.residuals(input))).1, None)
        }
        ComponentConfig::Autoencoder(config) => {
            let (cost, latent) = measure_autoencoder(config, &root, &x)?;
            (cost, Some(latent))
        }
    };
    Ok(Measured { vars, cost, latent })
}

fn measure_autoencoder(
    config: &AutoencoderConfig,
    root: &nn::Path<'_>,
    x: &tch::Tensor,
) -> Result<(Cost, Latent)> {
    let mut network = without_storage(|| config.build(root))?;
    let scale = network.latent_scale().clone();
    if let Some(network) = Rc::get_mut(&mut network) {
        network.set_latent_scale(LatentScale::identity())?; // its numbers cost nothing, and have no place among shapes
    }
    let ((latents, encode), (_, decode)) = tch::no_grad(|| {
        let (latents, encode) = count(|| network.encode(x));
        let decoded = count(|| network.decode(&latents));
        ((latents, encode), decoded)
    });
    let latent = Latent {
        shape: latents.size()[1..].to_vec(),
        scale,
        encode_multiply_adds: encode.multiply_adds,
        decode_multiply_adds: decode.multiply_adds,
    };
    let cost = Cost {
        multiply_adds: encode.multiply_adds + decode.multiply_adds,
        activations: encode.activations + decode.activations,
    };
    Ok((cost, latent))
}
