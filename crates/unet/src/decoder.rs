//! The way up.

use crate::Encoded;
use crate::level::UpLevel;
use crate::plan::Plan;
use heldout_core::{Probe, Site};
use heldout_nn::{Activation, Conv2d, GroupNorm};
use tch::{Tensor, nn};

/// The decoder of a UNet: takes the skip connections back, last first.
#[derive(Debug)]
pub struct Decoder {
    up_blocks: Vec<UpLevel>,
    norm_out: Option<(GroupNorm, Activation)>,
    conv_out: Conv2d,
}

impl Decoder {
    /// Under `vs`: `up_blocks`, `conv_norm_out`, `conv_out`.
    pub fn new(vs: &nn::Path<'_>, plan: &Plan) -> Self {
        let first = plan.width;
        let norm_out = plan.norm_out.map(|(groups, eps, activation)| {
            (GroupNorm::new(&(vs / "conv_norm_out"), groups, first, eps), activation)
        });
        let up = plan.up.iter().enumerate();
        let (out, kernel) = (plan.out_channels, plan.conv_out_kernel);
        Self {
            up_blocks: up.map(|(i, level)| UpLevel::new(&(vs / "up_blocks" / i), level)).collect(),
            norm_out,
            conv_out: Conv2d::padded(&(vs / "conv_out"), first, out, kernel, 1, (kernel - 1) / 2),
        }
    }

    /// `[B, out_channels, H, W]`; the probe sees every skip connection as it is used, the middle and every block.
    ///
    /// # Panics
    /// If the encoder was of another shape.
    pub fn forward(&self, encoded: Encoded, train: bool, probe: &mut dyn Probe) -> Tensor {
        let Encoded { mut skips, mid, told } = encoded;
        let around = told.around(train);
        let mut h = probe.at(Site::Mid, mid);
        let mut image = None;
        for (i, level) in self.up_blocks.iter().enumerate() {
            h = level.forward(h, &mut image, around, || {
                let skip = skips.pop().expect("the encoder makes as many skips as the decoder takes");
                probe.at(Site::Down(skips.len()), skip)
            });
            let next = skips.last().map(|next| [next.size()[2], next.size()[3]]);
            h = probe.at(Site::Up(i), level.resample(h, around, next));
        }
        if let Some((norm, activation)) = &self.norm_out {
            h = norm.activated(&h, None, *activation);
        }
        let out = self.conv_out.forward(&h);
        match image {
            Some(image) => out + image,
            None => out,
        }
    }
}
