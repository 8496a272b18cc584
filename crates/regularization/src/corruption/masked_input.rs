//! A network that is told which pixels it sees.

use super::{AmbientConfig, mask};
use heldout_core::{Backbone, Cond, Error, Input, Probe, Result, stream};
use tch::{Device, Tensor};

/// Gives a network `x` where the mask is 1, 0 elsewhere, and the mask as a further channel; Daras et al. 2023, section 3.
///
/// `[B, C, H, W] -> [B, C', H, W]` around a network that takes `C + 1` channels. The mask is `cond.mask`, as
/// [`Ambient`](super::Ambient) sets it; where there is none, in sampling and validation, one that is fixed for the life of
/// the model, with as many pixels as in training: the paper's fixed mask sampler.
///
/// Law: what `x` is where the mask is 0 changes nothing, to the last bit.
#[derive(Debug)]
pub struct MaskedInput<B> {
    backbone: B,
    /// `[1, 1, H, W]`.
    fixed: Tensor,
}

impl<B> MaskedInput<B> {
    /// For images of `size` `[H, W]` that were corrupted so.
    pub fn new(backbone: B, config: &AmbientConfig, size: [i64; 2], device: Device) -> Result<Self> {
        config.check()?;
        let key = stream(config.seed, "ambient sampling", 0, 0);
        Ok(Self { backbone, fixed: mask(key, &[0], size, config.hidden(), device) })
    }

    /// The mask of inputs that come without one, `[1, 1, H, W]`, f32.
    pub fn fixed_mask(&self) -> &Tensor {
        &self.fixed
    }

    /// What the network inside is given.
    fn masked(&self, input: &Input<'_>) -> (Tensor, Cond) {
        let x = input.x;
        let mask = input.cond.mask.as_ref().unwrap_or(&self.fixed).to_device(x.device()).to_kind(x.kind());
        let mut size = x.size();
        size[1] = 1;
        let seen = x.masked_fill(&mask.eq(0.0), 0.0);
        let cond = Cond { mask: None, ..input.cond.shallow_clone() };
        (Tensor::cat(&[seen, mask.expand(size, false)], 1), cond)
    }
}

impl<B: Backbone> Backbone for MaskedInput<B> {
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let (x, cond) = self.masked(&input);
        self.backbone.forward(Input { x: &x, cond: &cond, ..input }, probe)
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        let size = input.x.size();
        let &[batch, _, height, width] = size.as_slice() else {
            return Err(Error::config("x_t", format!("shape {size:?} is not [B, C, H, W]")));
        };
        let (name, found, wanted) = match &input.cond.mask {
            Some(mask) => ("mask", mask.size(), vec![batch, 1, height, width]),
            None => ("x_t", self.fixed.size(), vec![1, 1, height, width]),
        };
        if found != wanted {
            return Err(Error::config(name, format!("a mask of shape {found:?}, needed {wanted:?}")));
        }
        let (x, cond) = self.masked(&input);
        self.backbone.check(Input { x: &x, cond: &cond, ..input })
    }
}
