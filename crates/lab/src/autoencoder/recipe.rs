//! Recipes of autoencoders.

use crate::hash::of_text;
use crate::recipe::{DataConfig, TrainConfig, apply_all, parse, read_table};
use crate::regularization::RegularizationConfig;
use anyhow::Result;
use heldout_core::{Error, Params};
use heldout_data::LabelConfig;
use heldout_features::FeaturesConfig;
use heldout_vae::AutoencoderObjectiveConfig;
use heldout_weights::AutoencoderConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tch::{Device, nn};
use toml::{Table, Value};

/// How an autoencoder is trained, completely described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AutoencoderRecipe {
    /// Short name.
    pub name: String,
    /// Of weights, batches and draws.
    pub seed: u64,
    /// What is trained on.
    pub data: DataConfig,
    /// The network.
    pub autoencoder: AutoencoderConfig,
    /// The loss.
    #[serde(default)]
    pub objective: AutoencoderObjectiveConfig,
    /// The network that sees how reconstructions differ, for `objective.perceptual_weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<PerceptualConfig>,
    /// The frozen network of `objective.alignment`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alignment: Option<FeaturesConfig>,
    /// The steps.
    pub train: TrainConfig,
    /// Only `augment`, `gradient` and `weights`: an autoencoder has no noise.
    #[serde(default)]
    pub regularization: RegularizationConfig,
    /// Reconstructions along the way.
    pub validation: ReconstructionConfig,
    /// What is kept.
    pub checkpoint: KeptCheckpoints,
}

/// A network that sees how images differ.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum PerceptualConfig {
    /// Squared differences of a feature network's features.
    Features {
        /// Which network.
        network: FeaturesConfig,
    },
    /// LPIPS with given weights.
    Lpips {
        /// The trunk's safetensors, in torchvision's names.
        trunk: PathBuf,
        /// The heads' safetensors, in the names of the package `lpips`.
        heads: PathBuf,
    },
}

/// Reconstructions along the way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconstructionConfig {
    /// Steps between two looks.
    pub every: u64,
    /// Images of each set.
    pub images: usize,
    /// Images of one forward pass.
    pub batch_size: usize,
    /// The network of the Fréchet distance at the end; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturesConfig>,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeptCheckpoints {
    /// Steps between two.
    pub every: u64,
    /// How many of the last ones stay.
    pub keep: usize,
}

impl AutoencoderRecipe {
    /// Reads a recipe file and applies `sets`, `KEY=VALUE`.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self> {
        let mut table: Table = read_table(path)?;
        apply_all(&mut table, sets)?;
        let recipe: Self = parse(Value::Table(table))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// SHA-256 of the recipe: names what a run and its checkpoints belong to.
    pub(crate) fn fingerprint(&self) -> Result<String> {
        Ok(of_text(&toml::to_string(self)?))
    }

    /// Which field cannot be honoured. What depends on the images is checked when they are opened.
    pub fn check(&self) -> heldout_core::Result<()> {
        let least = [
            ("train.steps", self.train.steps),
            ("train.log_every", self.train.log_every),
            ("validation.every", self.validation.every),
            ("validation.images", self.validation.images as u64),
            ("validation.batch_size", self.validation.batch_size as u64),
            ("checkpoint.every", self.checkpoint.every),
            ("checkpoint.keep", self.checkpoint.keep as u64),
        ];
        if let Some((field, _)) = least.into_iter().find(|(_, n)| *n == 0) {
            return Err(Error::config(field, "0: at least 1 is needed"));
        }
        let DataConfig { name: _, split: _, filter, classes, exclude, labels, repeat } = &self.data;
        let of_denoisers = [
            ("filter", !filter.is_empty()),
            ("classes", !classes.is_empty()),
            ("exclude", !exclude.is_empty()),
            ("labels", *labels != LabelConfig::default()),
            ("repeat", !repeat.is_empty()),
        ];
        if let Some((field, _)) = of_denoisers.into_iter().find(|(_, there)| *there) {
            let reason = "is for denoisers: an autoencoder sees every image of its split once an epoch";
            return Err(Error::config(format!("data.{field}"), reason));
        }
        self.train.optimizer.check().map_err(|e| e.within("train.optimizer"))?;
        self.train.learning_rate.check().map_err(|e| e.within("train.learning_rate"))?;
        let RegularizationConfig { corruption, augment: _, times, noise, penalty, gradient: _, weights: _ } =
            &self.regularization;
        let noisy = [
            ("corruption", corruption.is_some()),
            ("times", !times.is_empty()),
            ("noise", !noise.is_empty()),
            ("penalty", !penalty.is_empty()),
        ];
        if let Some((list, _)) = noisy.into_iter().find(|(_, there)| *there) {
            let reason = "is for denoisers: an autoencoder takes augment, gradient and weights";
            return Err(Error::config(format!("regularization.{list}"), reason));
        }
        // Built and thrown away, so that a wrong list is told before anything runs.
        let none = Params::of(&nn::VarStore::new(Device::Cpu));
        self.regularization.update(&self.train, none).map(drop).map_err(|e| e.within("regularization"))
    }
}
