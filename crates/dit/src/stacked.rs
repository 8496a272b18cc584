//! Clips whose frames are channels, for whoever knows images alone.

use crate::{SpaceTimeConfig, SpaceTimeDit};
use heldout_core::{Backbone, Error, Input, Probe, Result};
use tch::{Tensor, nn};

/// A [`SpaceTimeDit`] for clips `[B, C T, H, W]`: all frames of a channel, then those of the next, so that a learned variance
/// is the second half of the output, as it is of images.
///
/// Law: that network on `[B, C, T, H, W]`, bit for bit.
#[derive(Debug)]
pub struct StackedFrames {
    clips: SpaceTimeDit,
    channels: i64,
}

impl StackedFrames {
    /// Under `vs` what [`SpaceTimeDit::new`] makes.
    pub fn new(vs: &nn::Path<'_>, config: &SpaceTimeConfig) -> Result<Self> {
        Ok(Self { clips: SpaceTimeDit::new(vs, config)?, channels: config.image.in_channels })
    }

    /// `[B, C T, H, W] -> [B, C, T, H, W]`.
    fn apart(&self, x: &Tensor) -> Tensor {
        x.unflatten(1, [self.channels, -1])
    }
}

impl Backbone for StackedFrames {
    /// `[B, in_channels T, H, W] -> [B, out_channels T, H, W]`.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let x = self.apart(input.x);
        self.clips.forward(Input { x: &x, ..input }, probe).flatten(1, 2)
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        let size = input.x.size();
        if size.len() != 4 || size[1] < 1 || size[1] % self.channels != 0 {
            let reason = format!(
                "is of shape {size:?}: [B, {} T, H, W] is needed, frames of clips as channels",
                self.channels
            );
            return Err(Error::config("sample", reason));
        }
        let x = self.apart(input.x);
        self.clips.check(Input { x: &x, ..input })
    }
}
