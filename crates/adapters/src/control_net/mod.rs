//! ControlNet: a copy of a UNet's encoder that looks at a hint.

mod config;
mod hint_network;

pub use config::{ChannelOrder, ControlNetModelConfig, HintConfig};

use crate::hint::check_hint;
use heldout_core::{Adapter, Input, Residuals, Result, Site};
use heldout_nn::Conv2d;
use heldout_unet::plan::{LevelPlan, Plan, ResamplePlan};
use heldout_unet::{Encoded, Encoder};
use hint_network::HintNetwork;
use tch::{Tensor, nn};

/// The parameters that a ControlNet has beside those of the encoder that it copies, by the start of their names.
pub const CONTROL_NET_OWN: [&str; 3] =
    ["controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"];

/// Zhang et al. 2023, section 3, with the parameter names of diffusers' `ControlNetModel`: a UNet's encoder, to whose stem an
/// embedded hint is added, and a convolution that starts at 0 after each of its skip connections and after its middle.
///
/// Law: every residual is 0 at initialisation.
#[derive(Debug)]
pub struct ControlNet {
    encoder: Encoder,
    hint_network: HintNetwork,
    down: Vec<Conv2d>,
    mid: Conv2d,
    global_pool: bool,
}

impl ControlNet {
    /// Parameters are made under `vs` with diffusers' names, from libtorch's generator.
    pub fn new(vs: &nn::Path<'_>, config: &ControlNetModelConfig) -> Result<Self> {
        Self::planned(vs, &config.plan()?, &config.hint())
    }

    /// For a UNet that is written out, whose way up is not looked at.
    pub fn planned(vs: &nn::Path<'_>, plan: &Plan, hint: &HintConfig) -> Result<Self> {
        plan.check()?;
        hint.check(plan)?;
        let (own, levels) = (vs / "controlnet_down_blocks", plan.down.iter().flat_map(skip_widths));
        let widths = [plan.width].into_iter().chain(levels);
        let zero = |(i, width): (usize, i64)| Conv2d::zero(&(&own / i), width, width, 1);
        let last = plan.mid.as_ref().map(|mid| mid.rest.as_ref().map_or(mid.first.to, |(_, block)| block.to));
        let last = last.or_else(|| plan.down.last()?.resnets.last().map(|block| block.to));
        let last = last.unwrap_or(plan.width);
        let HintConfig { global_pool_conditions: global_pool, .. } = *hint;
        Ok(Self {
            encoder: Encoder::new(vs, plan),
            hint_network: HintNetwork::new(&(vs / "controlnet_cond_embedding"), plan.width, hint),
            down: widths.enumerate().map(zero).collect(),
            mid: Conv2d::zero(&(vs / "controlnet_mid_block"), last, last, 1),
            global_pool,
        })
    }

    /// Times smaller than the hint the images are that the UNet sees.
    pub fn hint_factor(&self) -> i64 {
        self.hint_network.factor()
    }

    /// Scales of guess mode, one for each site: from 0.1 at the finest resolution to 1 in the middle, evenly in their
    /// logarithm. Without guidance by text, the coarse sites then lead. As in diffusers, a net that pools has none.
    pub fn guess_scales(&self) -> Vec<f64> {
        let last = self.down.len() as f64;
        let scale = |i: usize| if self.global_pool { 1.0 } else { 10f64.powf(i as f64 / last - 1.0) };
        (0..=self.down.len()).map(scale).collect()
    }

    fn residual(&self, conv: &Conv2d, h: &Tensor) -> Tensor {
        let h = conv.forward(h);
        if self.global_pool { h.mean_dim([2i64, 3].as_slice(), true, h.kind()) } else { h }
    }
}

/// Channels of the skip connections that one level of the way down makes.
fn skip_widths(level: &LevelPlan) -> Vec<i64> {
    let blocks = level.resnets.iter().map(|block| block.to);
    let resampled = match level.resample {
        ResamplePlan::Keep | ResamplePlan::Filter(_) => None,
        ResamplePlan::Conv { channels, .. } => Some(channels),
        ResamplePlan::Block(shape) | ResamplePlan::Beside(shape) => Some(shape.to),
    };
    blocks.chain(resampled).collect()
}

impl Adapter for ControlNet {
    /// One for every skip connection and one for the middle: of their shapes, or `[B, C, 1, 1]` from a net that pools.
    fn residuals(&self, input: Input<'_>) -> Residuals {
        let Some(hint) = &input.cond.hint else { return Residuals::default() };
        let embedded = self.hint_network.forward(hint);
        let mut at_stem = Residuals(vec![(Site::Stem, embedded)]);
        let Encoded { skips, mid, .. } = self.encoder.forward(input, &mut at_stem);
        let down = skips.iter().zip(&self.down).map(|(skip, conv)| self.residual(conv, skip));
        let all = down.chain([self.residual(&self.mid, &mid)]);
        Residuals(self.sites().into_iter().zip(all).collect())
    }

    fn sites(&self) -> Vec<Site> {
        (0..self.down.len()).map(Site::Down).chain([Site::Mid]).collect()
    }

    fn hint_channels(&self) -> i64 {
        self.hint_network.channels()
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        check_hint(input, self.hint_channels(), self.hint_factor(), 1)?;
        self.encoder.check(input)
    }
}
