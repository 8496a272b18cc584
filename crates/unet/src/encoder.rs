//! The way down, and the middle.

use crate::conditioning::{Conditioning, Told};
use crate::level::{AttentionLayer, DownLevel};
use crate::plan::Plan;
use heldout_core::{Input, Probe, Result, Site};
use heldout_nn::{Conv2d, ResBlock, Surroundings};
use tch::{Tensor, nn};

/// The encoder of a UNet with its conditions and its middle block: a value of its own, since adapters copy it and nested
/// UNets reuse it.
#[derive(Debug)]
pub struct Encoder {
    conditioning: Conditioning,
    center_input: bool,
    conv_in: Conv2d,
    down_blocks: Vec<DownLevel>,
    mid_block: Option<Mid>,
}

#[derive(Debug)]
struct Mid {
    first: ResBlock,
    rest: Option<(Option<AttentionLayer>, ResBlock)>,
}

impl Mid {
    fn forward(&self, x: Tensor, around: Surroundings<'_>) -> Tensor {
        let mut h = self.first.forward(&x, around.embedded, around.train);
        if let Some((attention, block)) = &self.rest {
            if let Some(attention) = attention {
                h = attention.forward(&h, around);
            }
            h = block.forward(&h, around.embedded, around.train);
        }
        h
    }
}

/// What an encoder makes of a batch.
#[derive(Debug)]
pub struct Encoded {
    /// The skip connections, in the order in which they are made.
    pub skips: Vec<Tensor>,
    /// The middle's output, at the coarsest resolution.
    pub mid: Tensor,
    /// What all blocks are told.
    pub told: Told,
}

impl Encoder {
    /// Under `vs`: `time_embedding` and its kin, `conv_in`, `down_blocks`, `mid_block`.
    pub fn new(vs: &nn::Path<'_>, plan: &Plan) -> Self {
        let (first, kernel) = (plan.width, plan.conv_in_kernel);
        let padding = (kernel - 1) / 2;
        let mid = vs / "mid_block";
        let down = plan.down.iter().enumerate();
        let mid_block = plan.mid.as_ref().map(|plan| Mid {
            first: ResBlock::new(&(&mid / "resnets" / 0), plan.first),
            rest: plan.rest.as_ref().map(|(attention, block)| {
                let attention =
                    attention.as_ref().map(|a| AttentionLayer::new(&(&mid / "attentions" / 0), a));
                (attention, ResBlock::new(&(&mid / "resnets" / 1), *block))
            }),
        });
        Self {
            conditioning: Conditioning::new(vs, &plan.conditioning),
            center_input: plan.center_input,
            conv_in: Conv2d::padded(&(vs / "conv_in"), plan.in_channels, first, kernel, 1, padding),
            down_blocks: down.map(|(i, level)| DownLevel::new(&(vs / "down_blocks" / i), level)).collect(),
            mid_block,
        }
    }

    /// Which condition is missing or of another shape than the network takes, and which noise level it does not know.
    pub fn check(&self, input: Input<'_>) -> Result<()> {
        self.conditioning.check(input.noise_level, input.cond)
    }

    /// `x` `[B, C, H, W]` with its noise level and conditions. The probe sees the stem and every level on the way, the middle
    /// as one more.
    pub fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Encoded {
        let levels = self.down_blocks.len();
        let Encoded { skips, mid, told } = self.descend(input, levels, probe);
        let around = told.around(input.train);
        let mid = match &self.mid_block {
            Some(block) => probe.at(Site::Level(levels), block.forward(mid, around)),
            None => mid,
        };
        Encoded { skips, mid, told }
    }

    /// The `levels` finest resolutions alone, with as many skip connections; instead of a middle, their last output. The
    /// change to a resolution that is left out is not made.
    pub fn descend(&self, input: Input<'_>, levels: usize, probe: &mut dyn Probe) -> Encoded {
        let centered = self.center_input.then(|| 2.0 * input.x - 1.0);
        let x = centered.as_ref().unwrap_or(input.x);
        let told = self.conditioning.forward(input.noise_level, input.cond);
        let hinted = told.hint.as_ref().map(|hint| Tensor::cat(&[x, hint], 1));
        let mut h = probe.at(Site::Stem, self.conv_in.forward(hinted.as_ref().unwrap_or(x)));
        let mut skips = vec![h.shallow_clone()];
        let mut image = x.shallow_clone();
        let around = told.around(input.train);
        for (i, level) in self.down_blocks.iter().take(levels).enumerate() {
            h = level.blocks(h, around, &mut skips);
            let mut show = |h, skips: &mut Vec<Tensor>| shown(probe, Site::Level(i), h, skips);
            if level.shows_blocks {
                h = show(h, &mut skips);
            }
            // A last level may change the resolution as well, where the middle is at one of its own.
            if i + 1 < levels || levels == self.down_blocks.len() {
                h = level.resample(h, &mut image, around, &mut skips);
            }
            if !level.shows_blocks {
                h = show(h, &mut skips);
            }
        }
        Encoded { skips, mid: h, told }
    }
}

/// What the probe makes of a level's state, which is the last skip connection as well.
fn shown(probe: &mut dyn Probe, site: Site, h: Tensor, skips: &mut [Tensor]) -> Tensor {
    let h = probe.at(site, h);
    if let Some(last) = skips.last_mut() {
        *last = h.shallow_clone();
    }
    h
}
