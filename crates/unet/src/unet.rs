//! Encoder and decoder together.

use crate::plan::Plan;
use crate::{Decoder, Encoder, UNetConfig};
use heldout_core::{Backbone, Error, Input, Probe, Result, like};
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
        let out = self.decoder.forward(self.encoder.forward(input), input.train, probe);
        if self.plan.divide_by_level { &out / like(input.noise_level, &out) } else { out }
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        let (size, plan) = (input.x.size(), &self.plan);
        let channels = plan.image_channels();
        if size.len() != 4 || size[1] != channels || size.contains(&0) {
            let reason = format!("is of shape {size:?}: the network needs [B, {channels}, H, W]");
            return Err(Error::config("sample", reason));
        }
        let halved = 1 << plan.halvings();
        if size[2] < halved || size[3] < halved {
            let reason = format!("{}x{} cannot be halved {} times", size[2], size[3], plan.halvings());
            return Err(Error::config("sample", reason));
        }
        if input.noise_level.size() != [size[0]] {
            let reason =
                format!("is of shape {:?}: one for each of {} rows", input.noise_level.size(), size[0]);
            return Err(Error::config("timestep", reason));
        }
        self.encoder.check(size[0], input.cond)
    }
}
