//! The configurations of diffusers' UNets, field by field, and the plans that they stand for.

mod blocks;
mod unet2d;
mod unet2d_condition;

pub use blocks::{DownBlockType, MidBlockType, UpBlockType};
pub use unet2d::UNet2DModelConfig;
pub use unet2d_condition::{Depth, UNet2DConditionModelConfig};

use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// One value for every level, or one for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "PerLevel_{T}"))]
#[serde(untagged, expecting = "one value, or a list with one for each level")]
pub enum PerLevel<T> {
    /// The same everywhere.
    One(T),
    /// One for each.
    Each(Vec<T>),
}

impl<T: Clone> PerLevel<T> {
    /// One for each of `levels`.
    pub(crate) fn spread(&self, field: &str, levels: usize) -> Result<Vec<T>> {
        match self {
            Self::One(value) => Ok(vec![value.clone(); levels]),
            Self::Each(values) if values.len() == levels => Ok(values.clone()),
            Self::Each(values) => {
                let reason = format!("{} values for the {levels} levels of block_out_channels", values.len());
                Err(Error::config(field, reason))
            }
        }
    }
}

/// How time enters the residual blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimeScaleShift {
    /// Added.
    #[default]
    Default,
    /// Scales and shifts.
    ScaleShift,
}

/// How a class enters; without a type, `num_class_embeds` makes a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClassEmbedType {
    /// A number, as the noise level.
    Timestep,
    /// A vector as it is.
    Identity,
    /// A vector, by an MLP.
    Projection,
    /// A vector, by a linear layer.
    SimpleProjection,
}

/// The kinds of time embedding that diffusers' UNets have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum TimeEmbeddingType {
    /// Sinusoids.
    #[default]
    Positional,
    /// Gaussian frequencies.
    Fourier,
    /// A table.
    Learned,
}

/// What changes the resolution in blocks with attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResampleType {
    /// A convolution.
    #[default]
    Conv,
    /// A residual block.
    Resnet,
}

fn levels_agree(widths: &[i64], down: usize, up: usize) -> Result<()> {
    if widths.is_empty() || widths.len() > 8 {
        let reason = format!("{} resolutions: 1 to 8 are possible", widths.len());
        return Err(Error::config("block_out_channels", reason));
    }
    for (field, n) in [("down_block_types", down), ("up_block_types", up)] {
        if n != widths.len() {
            let reason = format!("{n} blocks for the {} levels of block_out_channels", widths.len());
            return Err(Error::config(field, reason));
        }
    }
    match widths.iter().find(|w| **w < 1) {
        Some(w) => Err(Error::config("block_out_channels", format!("{w}: at least 1 is needed"))),
        None => Ok(()),
    }
}
