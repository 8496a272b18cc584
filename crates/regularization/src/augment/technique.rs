//! Augmentations as recipes write them.

use super::{
    AdditiveNoise, ColorJitter, Crop, Cutout, Erasing, Flip, GaussianBlur, LabelDropout, Mixup, NonLeaky,
    Rotation,
};
use heldout_core::{Augment, Result};
use serde::{Deserialize, Serialize};

/// An augmentation as a recipe writes it; in a list the first acts first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AugmentTechnique {
    /// [`AdditiveNoise`].
    AdditiveNoise(AdditiveNoise),
    /// [`ColorJitter`].
    ColorJitter(ColorJitter),
    /// [`Crop`].
    Crop(Crop),
    /// [`Cutout`].
    Cutout(Cutout),
    /// [`Erasing`].
    Erasing(Erasing),
    /// [`Flip`].
    Flip(Flip),
    /// [`GaussianBlur`].
    GaussianBlur(GaussianBlur),
    /// [`LabelDropout`].
    LabelDropout(LabelDropout),
    /// [`Mixup`].
    Mixup(Mixup),
    /// [`NonLeaky`].
    NonLeaky(NonLeaky),
    /// [`Rotation`].
    Rotation(Rotation),
}

impl AugmentTechnique {
    /// Whether its settings can be honoured for images or latents of `shape` `[C, H, W]`.
    pub fn check(&self, shape: [i64; 3]) -> Result<()> {
        match self {
            Self::AdditiveNoise(it) => it.check(),
            Self::ColorJitter(it) => it.check(shape),
            Self::Crop(it) => it.check(shape),
            Self::Cutout(it) => it.check(),
            Self::Erasing(it) => it.check(),
            Self::Flip(it) => it.check(),
            Self::GaussianBlur(it) => it.check(shape),
            Self::LabelDropout(it) => it.check(),
            Self::Mixup(it) => it.check(),
            Self::NonLeaky(it) => it.check(),
            Self::Rotation(it) => it.check(),
        }
    }

    /// The augmentation, checked for images or latents of `shape` `[C, H, W]`.
    pub fn build(&self, shape: [i64; 3]) -> Result<Box<dyn Augment>> {
        self.check(shape)?;
        Ok(match self.clone() {
            Self::AdditiveNoise(it) => Box::new(it),
            Self::ColorJitter(it) => Box::new(it),
            Self::Crop(it) => Box::new(it),
            Self::Cutout(it) => Box::new(it),
            Self::Erasing(it) => Box::new(it),
            Self::Flip(it) => Box::new(it),
            Self::GaussianBlur(it) => Box::new(it),
            Self::LabelDropout(it) => Box::new(it),
            Self::Mixup(it) => Box::new(it),
            Self::NonLeaky(it) => Box::new(it),
            Self::Rotation(it) => Box::new(it),
        })
    }
}
