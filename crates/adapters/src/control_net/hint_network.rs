//! The network that brings a hint to the size of the images that a UNet sees.

use super::config::{ChannelOrder, HintConfig};
use heldout_nn::{Activation, Conv2d};
use tch::{Tensor, nn};

/// Convolutions, every second of which halves the size; diffusers' `ControlNetConditioningEmbedding`.
///
/// Law: 0 at initialisation.
#[derive(Debug)]
pub(super) struct HintNetwork {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
    channels: i64,
    order: ChannelOrder,
}

impl HintNetwork {
    /// Under `vs`: `conv_in`, `blocks`, `conv_out`; `to` is the width of the UNet's stem.
    pub(super) fn new(vs: &nn::Path<'_>, to: i64, config: &HintConfig) -> Self {
        let HintConfig {
            conditioning_channels: channels,
            conditioning_embedding_out_channels: widths,
            controlnet_conditioning_channel_order: order,
            global_pool_conditions: _,
        } = config;
        let block = |i: usize| {
            let (from, halves) = (widths[i / 2], i % 2);
            Conv2d::new(&(vs / "blocks" / i), from, widths[i / 2 + halves], 3, 1 + halves as i64)
        };
        Self {
            conv_in: Conv2d::new(&(vs / "conv_in"), *channels, widths[0], 3, 1),
            blocks: (0..2 * (widths.len() - 1)).map(block).collect(),
            conv_out: Conv2d::zero(&(vs / "conv_out"), widths[widths.len() - 1], to, 3),
            channels: *channels,
            order: *order,
        }
    }

    /// `[B, channels, H * factor, W * factor] -> [B, to, H, W]`.
    pub(super) fn forward(&self, hint: &Tensor) -> Tensor {
        let turned = match self.order {
            ChannelOrder::Rgb => None,
            ChannelOrder::Bgr => Some(hint.flip([1i64].as_slice())),
        };
        let mut h = Activation::Silu.apply(&self.conv_in.forward(turned.as_ref().unwrap_or(hint)));
        for block in &self.blocks {
            h = Activation::Silu.apply(&block.forward(&h));
        }
        self.conv_out.forward(&h)
    }

    pub(super) fn channels(&self) -> i64 {
        self.channels
    }

    pub(super) fn factor(&self) -> i64 {
        1 << (self.blocks.len() / 2)
    }
}
