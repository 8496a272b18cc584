//! Encoder and decoder together.

use crate::{Decoder, Encoder, UNetConfig};
use heldout_core::{Backbone, Input, Probe, Result};
use tch::{Tensor, nn};

/// The denoising UNet of Ho et al. 2020, appendix B, in the block structure of diffusers' `UNet2DModel`.
#[derive(Debug)]
pub struct UNet {
    encoder: Encoder,
    decoder: Decoder,
}

impl UNet {
    /// Parameters are made under `vs` with diffusers' names, from libtorch's generator.
    pub fn new(vs: &nn::Path<'_>, config: &UNetConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { encoder: Encoder::new(vs, config), decoder: Decoder::new(vs, config) })
    }
}

impl Backbone for UNet {
    /// `[B, in_channels, H, W] -> [B, out_channels, H, W]`; `H` and `W` halve at every resolution but the last.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let encoded = self.encoder.forward(input.x, input.noise_level, input.train);
        self.decoder.forward(encoded, input.train, probe)
    }
}
