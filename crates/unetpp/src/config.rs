//! Sizes of a nested UNet, as a recipe writes them.

use crate::costs::Costs;
use heldout_core::{Error, Result};
use heldout_unet::UNetConfig;
use heldout_unet::plan::{LevelPlan, Plan, ResamplePlan};
use serde::{Deserialize, Serialize};

/// Sizes of a nested UNet: the UNet whose encoder and blocks it has, and how much of the grid there is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UNetPlusPlusConfig {
    /// The blocks: at least two resolutions. Node `X[i][j]` has the blocks of this UNet's decoder at resolution `i`.
    pub unet: UNetConfig,
    /// Whether every depth has a head of its own, so that it can be trained and used alone.
    ///
    /// The loss must then reach all heads, by a penalty on [`Site::Head`](heldout_core::Site::Head): the objective sees
    /// the last one alone, and without such a penalty training stops at the first parameter that gets no gradient.
    #[serde(default)]
    pub deep_supervision: bool,
    /// How deep the grid is built: the whole grid if absent.
    ///
    /// Names and shapes of parameters do not depend on it: of the weights of a whole grid that was trained with deep
    /// supervision, those that are named give the network of this depth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
}

impl UNetPlusPlusConfig {
    /// The whole grid of these blocks, without deep supervision.
    pub fn new(unet: UNetConfig) -> Self {
        Self { unet, deep_supervision: false, depth: None }
    }

    /// Which field cannot be honoured, and why.
    pub fn check(&self) -> Result<()> {
        self.unet.check().map_err(|e| e.within("unet"))?;
        let whole = self.whole();
        if whole == 0 {
            let reason = "1 resolution makes no grid: give at least 2, or use the plain UNet";
            return Err(Error::config("unet.block_out_channels", reason));
        }
        match self.depth {
            Some(depth) => depth_exists(depth, whole),
            None => Ok(()),
        }
    }

    /// Whether images of this shape fit: channels, and sides that halve as often as the grid is deep.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        let seen = UNetConfig {
            block_out_channels: self.unet.block_out_channels.iter().take(self.depth() + 1).copied().collect(),
            attention: self.unet.attention.iter().take(self.depth() + 1).copied().collect(),
            ..self.unet.clone()
        };
        seen.check_images(channels, height, width).map_err(|e| e.within("unet"))
    }

    /// How deep the grid is built.
    pub fn depth(&self) -> usize {
        self.depth.unwrap_or(self.whole())
    }

    /// Depth of the whole grid.
    pub(crate) fn whole(&self) -> usize {
        self.unet.block_out_channels.len().saturating_sub(1)
    }

    /// What every depth costs for one image of this size, in parameters and multiply-adds; nothing is allocated.
    pub fn costs(&self, height: i64, width: i64) -> Result<Costs> {
        Costs::of(self, height, width)
    }

    /// Every block with its sizes.
    pub(crate) fn plan(&self) -> Result<GridPlan> {
        self.check()?;
        let mut unet = self.unet.plan().map_err(|e| e.within("unet"))?;
        let (whole, depth) = (self.whole(), self.depth());
        let up: Vec<LevelPlan> = std::mem::take(&mut unet.up).into_iter().rev().collect(); // Finest first.
        if depth < whole {
            unet.down.truncate(depth + 1);
            unet.down[depth].resample = ResamplePlan::Keep;
            unet.mid = None;
        }
        let heads = if self.deep_supervision { 1..=depth } else { depth..=depth };
        Ok(GridPlan { unet, up, whole, depth, heads: heads.collect() })
    }
}

/// Whether a grid has this depth.
pub(crate) fn depth_exists(depth: usize, deepest: usize) -> Result<()> {
    if (1..=deepest).contains(&depth) {
        return Ok(());
    }
    Err(Error::config("depth", format!("{depth} is not a depth of this grid: they are 1 to {deepest}")))
}

/// A nested UNet written out.
#[derive(Debug)]
pub(crate) struct GridPlan {
    /// Its encoder.
    pub(crate) unet: Plan,
    /// The plain UNet's way up, finest first.
    pub(crate) up: Vec<LevelPlan>,
    /// Depth of the whole grid.
    pub(crate) whole: usize,
    /// How deep it is built.
    pub(crate) depth: usize,
    /// Which depths have a head.
    pub(crate) heads: Vec<usize>,
}

impl GridPlan {
    /// The node `X[row][column]`: the plain UNet's level of this resolution, whose blocks take one more tensor for every node
    /// between the encoder and this one. Column 0 is the encoder, which has no blocks here but at the bottom.
    pub(crate) fn node(&self, row: usize, column: usize) -> LevelPlan {
        let mut level = self.up[row].clone();
        if column == 0 && row < self.whole {
            level.resnets.clear();
            level.attentions.clear();
        }
        for block in &mut level.resnets {
            block.from += column.saturating_sub(1) as i64 * block.to;
        }
        level
    }
}
