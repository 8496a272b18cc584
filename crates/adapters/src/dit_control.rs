//! ControlNet's counterpart for diffusion transformers.

use crate::hint::check_hint;
use heldout_core::{Adapter, Cond, Error, Input, Recorder, Residuals, Result, Site};
use heldout_dit::{DitConfig, Trunk};
use heldout_nn::{Conv2d, Linear, to_tokens};
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

/// The parameters that a [`DitControl`] has beside those of the blocks that it copies, by the start of their names.
pub const DIT_CONTROL_OWN: [&str; 2] = ["hint_embed", "control_blocks"];

/// How a transformer is controlled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DitControlConfig {
    /// How many of the base's first blocks are copied.
    pub blocks: usize,
    /// Channels of the hint.
    pub conditioning_channels: i64,
    /// Times larger than the images the hint is: 1 for images, 8 for latents of an eighth.
    pub hint_factor: i64,
}

impl Default for DitControlConfig {
    fn default() -> Self {
        Self { blocks: 6, conditioning_channels: 3, hint_factor: 1 }
    }
}

/// Copies of a diffusion transformer's first blocks, to whose tokens an embedded hint is added, and a linear layer that starts
/// at 0 after each: its output is added to that of the base's block. In the manner of Chen et al. 2024 (PixArt-delta), section
/// 3.3, but that its copies see the images as the base's first block does.
///
/// Classes are not dropped inside; a base drops its own. Law: every residual is 0 at initialisation.
#[derive(Debug)]
pub struct DitControl {
    trunk: Trunk,
    hint_embed: Conv2d,
    control_blocks: Vec<Linear>,
    config: DitControlConfig,
    patch: i64,
}

impl DitControl {
    /// Under `vs`: what [`Trunk::new`] makes, `hint_embed`, `control_blocks`.
    pub fn new(vs: &nn::Path<'_>, base: &DitConfig, config: DitControlConfig) -> Result<Self> {
        let DitControlConfig { blocks, conditioning_channels, hint_factor } = config;
        if blocks < 1 || blocks > base.depth {
            let reason = format!("{blocks}: 1 to {} of the base's blocks can be copied", base.depth);
            return Err(Error::config("blocks", reason));
        }
        for (field, n) in [("conditioning_channels", conditioning_channels), ("hint_factor", hint_factor)] {
            if n < 1 {
                return Err(Error::config(field, format!("{n}: at least 1 is needed")));
            }
        }
        let (width, patch) = (base.width, base.patch_size);
        let folded = conditioning_channels * (patch * hint_factor).pow(2);
        Ok(Self {
            trunk: Trunk::new(vs, &DitConfig { depth: blocks, ..base.clone() })?,
            // Patches, folded into channels, so that the projection is a convolution of side 1.
            hint_embed: Conv2d::zero(&(vs / "hint_embed"), folded, width, 1),
            control_blocks: (0..blocks)
                .map(|i| Linear::zero(&(vs / "control_blocks" / i), width, width))
                .collect(),
            config,
            patch,
        })
    }
}

impl Adapter for DitControl {
    /// One for each copied block, `[B, L, width]`.
    fn residuals(&self, input: Input<'_>) -> Residuals {
        let Some(hint) = &input.cond.hint else { return Residuals::default() };
        let patches = hint.pixel_unshuffle(self.patch * self.config.hint_factor);
        let mut at_stem = Residuals(vec![(Site::Stem, to_tokens(&self.hint_embed.forward(&patches)))]);
        let mut recorder = Recorder { wanted: self.sites(), seen: Vec::new() };
        let _last: Tensor = self.trunk.forward(input, &mut (&mut at_stem, &mut recorder));
        let blocks = recorder.seen.into_iter().zip(&self.control_blocks);
        Residuals(blocks.map(|((site, tokens), linear)| (site, linear.forward(&tokens))).collect())
    }

    fn sites(&self) -> Vec<Site> {
        (0..self.control_blocks.len()).map(Site::Block).collect()
    }

    fn hint_channels(&self) -> i64 {
        self.config.conditioning_channels
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        check_hint(input, self.config.conditioning_channels, self.config.hint_factor, 1)?;
        let cond = Cond { hint: None, ..input.cond.shallow_clone() };
        self.trunk.check(Input { cond: &cond, ..input })
    }
}
