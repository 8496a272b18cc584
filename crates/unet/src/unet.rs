//! Encoder and decoder together.

use crate::plan::Plan;
use crate::{Decoder, Encoder, UNetConfig};
use heldout_core::{Backbone, Input, Probe, Result, like};
use heldout_nn::PositionNet;
use tch::{Tensor, nn};

/// The denoising UNet: that of Ho et al. 2020, appendix B, of Dhariwal and Nichol 2021, section 4, and of Rombach et al.
/// 2022, section 3.3, in the block structure and with the parameter names of diffusers.
#[derive(Debug)]
pub struct UNet {
    encoder: Encoder,
    decoder: Decoder,
    plan: Plan,
    _position_net: Option<PositionNet>,
}

impl UNet {
    /// Parameters are made under `vs` with diffusers' names, from libtorch's generator.
    pub fn new(vs: &nn::Path<'_>, config: &UNetConfig) -> Result<Self> {
        Self::planned(vs, config.plan()?)
    }

    /// A UNet that is written out.
    pub fn planned(vs: &nn::Path<'_>, plan: Plan) -> Result<Self> {
        plan.check()?;
        let net = |(kind, width)| PositionNet::new(&(vs / "position_net"), kind, width, width);
        let (encoder, decoder) = (Encoder::new(vs, &plan), Decoder::new(vs, &plan));
        Ok(Self { encoder, decoder, _position_net: plan.grounding.map(net), plan })
    }

    /// Every block with its sizes.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }
}

impl Backbone for UNet {
    /// `[B, in_channels, H, W] -> [B, out_channels, H, W]`.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let out = self.decoder.forward(self.encoder.forward(input, probe), input.train, probe);
        if self.plan.divide_by_level { &out / like(input.noise_level, &out) } else { out }
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        self.plan.check_input(input)?;
        self.encoder.check(input)
    }
}
