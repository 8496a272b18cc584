//! The way up.

use crate::{Encoded, UNetConfig, encoder::attention};
use heldout_core::{Probe, Site};
use heldout_nn::{ResBlock, SelfAttention, Upsample, conv2d, group_norm};
use tch::{Tensor, nn};

/// One resolution of the decoder.
#[derive(Debug)]
struct UpBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<SelfAttention>,
    upsample: Option<Upsample>,
}

/// The decoder of a UNet: takes the skip connections back, last first.
#[derive(Debug)]
pub struct Decoder {
    up_blocks: Vec<UpBlock>,
    conv_norm_out: nn::GroupNorm,
    conv_out: nn::Conv2D,
}

impl Decoder {
    /// Under `vs`: `up_blocks`, `conv_norm_out`, `conv_out`.
    pub fn new(vs: &nn::Path<'_>, config: &UNetConfig) -> Self {
        let widths: Vec<i64> = config.block_out_channels.iter().rev().copied().collect(); // coarsest first
        let layers = config.layers_per_block + 1;
        let up = |level: usize| {
            let vs = vs / "up_blocks" / level;
            let (below, to) = (widths[level.saturating_sub(1)], widths[level]);
            let finer = widths[(level + 1).min(widths.len() - 1)];
            // The last skip of a resolution comes from the finer one's downsampling or, at the top, from conv_in.
            let from = |j: usize| {
                let skip = if j + 1 == layers { finer } else { to };
                if j == 0 { below + skip } else { to + skip }
            };
            let attended = if config.attention[widths.len() - 1 - level] { 0..layers } else { 0..0 };
            UpBlock {
                resnets: (0..layers)
                    .map(|j| ResBlock::new(&(&vs / "resnets" / j), config.block(from(j), to)))
                    .collect(),
                attentions: attended.map(|j| attention(&(&vs / "attentions" / j), config, to)).collect(),
                upsample: (level + 1 < widths.len()).then(|| Upsample::new(&(&vs / "upsamplers" / 0), to)),
            }
        };
        let first = config.block_out_channels[0];
        Self {
            up_blocks: (0..widths.len()).map(up).collect(),
            conv_norm_out: group_norm(
                &(vs / "conv_norm_out"),
                config.norm_num_groups,
                first,
                config.norm_eps,
            ),
            conv_out: conv2d(&(vs / "conv_out"), first, config.out_channels, 3, 1),
        }
    }

    /// `[B, out_channels, H, W]`; the probe sees every skip connection as it is used, the middle and every block.
    ///
    /// # Panics
    /// If the encoder was of another shape.
    pub fn forward(&self, encoded: Encoded, train: bool, probe: &mut dyn Probe) -> Tensor {
        let Encoded { mut skips, mid, activated } = encoded;
        let mut h = probe.at(Site::Mid, mid);
        for (level, block) in self.up_blocks.iter().enumerate() {
            for (j, resnet) in block.resnets.iter().enumerate() {
                let skip = skips.pop().expect("the encoder makes as many skips as the decoder takes");
                let skip = probe.at(Site::Down(skips.len()), skip);
                h = resnet.forward(&Tensor::cat(&[h, skip], 1), &activated, train);
                if let Some(attention) = block.attentions.get(j) {
                    h = attention.forward(&h);
                }
            }
            if let Some(upsample) = &block.upsample {
                h = upsample.forward(&h);
            }
            h = probe.at(Site::Up(level), h);
        }
        h.apply(&self.conv_norm_out).silu().apply(&self.conv_out)
    }
}
