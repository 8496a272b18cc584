//! The way down, and the middle.

use crate::UNetConfig;
use heldout_nn::{Downsample, ResBlock, SelfAttention, TimeEmbedding, conv2d};
use tch::{Tensor, nn};

/// One resolution of the encoder.
#[derive(Debug)]
struct DownBlock {
    resnets: Vec<ResBlock>,
    attentions: Vec<SelfAttention>,
    downsample: Option<Downsample>,
}

/// The encoder of a UNet with its time embedding and its middle block: a value of its own, since adapters copy it and
/// nested UNets reuse it.
#[derive(Debug)]
pub struct Encoder {
    time_embedding: TimeEmbedding,
    conv_in: nn::Conv2D,
    down_blocks: Vec<DownBlock>,
    mid_resnets: [ResBlock; 2],
    mid_attention: Option<SelfAttention>,
}

/// What an encoder makes of a batch.
#[derive(Debug)]
pub struct Encoded {
    /// The skip connections, in the order in which they are made.
    pub skips: Vec<Tensor>,
    /// The middle's output, at the coarsest resolution.
    pub mid: Tensor,
    /// The time embedding after SiLU, `[B, embedding]`.
    pub activated: Tensor,
}

/// An attention layer of `channels` in this network.
pub(crate) fn attention(vs: &nn::Path<'_>, config: &UNetConfig, channels: i64) -> SelfAttention {
    SelfAttention::new(vs, channels, config.attention_head_dim, config.norm_num_groups, config.norm_eps)
}

impl Encoder {
    /// Under `vs`: `time_embedding`, `conv_in`, `down_blocks`, `mid_block`.
    pub fn new(vs: &nn::Path<'_>, config: &UNetConfig) -> Self {
        let widths = &config.block_out_channels;
        let last = widths[widths.len() - 1];
        let mid = vs / "mid_block";
        let down = |level: usize| {
            let vs = vs / "down_blocks" / level;
            let (from, to) = (widths[level.saturating_sub(1)], widths[level]);
            let layers = 0..config.layers_per_block;
            let from = |layer| if layer == 0 { from } else { to };
            let attended = if config.attention[level] { layers.clone() } else { 0..0 };
            DownBlock {
                resnets: layers
                    .map(|j| ResBlock::new(&(&vs / "resnets" / j), config.block(from(j), to)))
                    .collect(),
                attentions: attended.map(|j| attention(&(&vs / "attentions" / j), config, to)).collect(),
                downsample: (level + 1 < widths.len())
                    .then(|| Downsample::new(&(&vs / "downsamplers" / 0), to)),
            }
        };
        Self {
            time_embedding: TimeEmbedding::new(&(vs / "time_embedding"), widths[0], config.embedding()),
            conv_in: conv2d(&(vs / "conv_in"), config.in_channels, widths[0], 3, 1),
            down_blocks: (0..widths.len()).map(down).collect(),
            mid_resnets: [0, 1].map(|j| ResBlock::new(&(&mid / "resnets" / j), config.block(last, last))),
            mid_attention: config.mid_attention.then(|| attention(&(&mid / "attentions" / 0), config, last)),
        }
    }

    /// `x` `[B, C, H, W]`, `noise_level` `[B]`.
    pub fn forward(&self, x: &Tensor, noise_level: &Tensor, train: bool) -> Encoded {
        let activated = self.time_embedding.forward(noise_level).silu(); // [B, embedding]
        let mut skips = vec![x.apply(&self.conv_in)]; // [B, widths[0], H, W]
        let mut h = skips[0].shallow_clone();
        for block in &self.down_blocks {
            for (j, resnet) in block.resnets.iter().enumerate() {
                h = resnet.forward(&h, &activated, train);
                if let Some(attention) = block.attentions.get(j) {
                    h = attention.forward(&h);
                }
                skips.push(h.shallow_clone());
            }
            if let Some(downsample) = &block.downsample {
                h = downsample.forward(&h);
                skips.push(h.shallow_clone());
            }
        }
        h = self.mid_resnets[0].forward(&h, &activated, train);
        if let Some(attention) = &self.mid_attention {
            h = attention.forward(&h);
        }
        Encoded { mid: self.mid_resnets[1].forward(&h, &activated, train), skips, activated }
    }
}
