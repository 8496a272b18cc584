//! The table `adapter` of a recipe.

use super::hint_list::HintList;
use crate::recipe::Recipe;
use heldout_adapters::hints::HintTechnique;
use heldout_adapters::{LoraConfig, Split};
use heldout_core::{Error, Result};
use heldout_regularization::AugmentTechnique;
use heldout_weights::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is trained beside a base, which keeps its weights; the base's network is the recipe's `model`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AdapterConfig {
    /// A copy of the base's encoder, or of a transformer's first blocks, that looks at a hint.
    ControlNet(ControlConfig),
    /// A small network of the hint, added to the UNet's way down.
    T2i(T2iConfig),
    /// Low-rank changes of the base's layers, without a hint.
    Lora(LoraArmConfig),
    /// A net of its own for each of colour, structure and texture.
    Decoupled(DecoupledConfig),
}

/// Where a base comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, deny_unknown_fields)]
pub enum Base {
    /// An arm of the same recipe that comes before, with the same seed.
    Arm {
        /// Its name.
        arm: String,
    },
    /// The folder of an arm, or a model's folder.
    Path(String),
}

/// ControlNet, or its counterpart for transformers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ControlConfig {
    /// What it is added to.
    pub base: Base,
    /// What it looks at, computed from the images: a hint, or a list of them.
    pub hint: HintList,
    /// Whether the base keeps its weights; otherwise both are trained.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub locked: bool,
    /// Of a UNet: widths of the network that embeds the hint, which halves the size between each and the next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_channels: Option<Vec<i64>>,
    /// Of a transformer: how many of its first blocks are copied; half of them if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<usize>,
}

/// T2I-Adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct T2iConfig {
    /// What it is added to.
    pub base: Base,
    /// What it looks at, computed from the images: a hint, or a list of them.
    pub hint: HintList,
    /// Residual blocks of a level.
    #[serde(default = "two")]
    pub num_res_blocks: usize,
}

/// LoRA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoraArmConfig {
    /// What it changes.
    pub base: Base,
    /// Rank, scale and layers.
    pub lora: LoraConfig,
}

/// A net for each part of the prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DecoupledConfig {
    /// What they are added to.
    pub base: Base,
    /// By name: `colour`, `structure`, `texture`.
    pub parts: BTreeMap<String, PartConfig>,
    /// Whether the weights of the parts are trained, from those that are given.
    #[serde(default)]
    pub learn_weights: bool,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartConfig {
    /// What its net looks at.
    pub hint: HintTechnique,
    /// An arm that has trained the net of this part: it is taken as it is. It is trained here if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Base>,
    /// How much of it is added.
    #[serde(default = "one")]
    pub weight: f64,
}

fn yes() -> bool {
    true
}

fn is_true(on: &bool) -> bool {
    *on
}

fn one() -> f64 {
    1.0
}

fn two() -> usize {
    2
}

impl AdapterConfig {
    /// What is added to.
    pub fn base(&self) -> &Base {
        match self {
            Self::ControlNet(config) => &config.base,
            Self::T2i(config) => &config.base,
            Self::Lora(config) => &config.base,
            Self::Decoupled(config) => &config.base,
        }
    }

    /// Every model that is needed, by the name of its place: `base`, and parts that were trained elsewhere.
    pub(crate) fn bases(&self) -> Vec<(String, &Base)> {
        let mut all = vec![("base".to_owned(), self.base())];
        if let Self::Decoupled(config) = self {
            let from =
                config.parts.iter().filter_map(|(name, part)| Some((part_key(name), part.from.as_ref()?)));
            all.extend(from);
        }
        all
    }

    /// The hints that are looked at, side by side, each with the name of its net.
    pub(crate) fn hints(&self) -> Vec<(String, HintTechnique)> {
        let named =
            |net: &str, hints: &HintList| hints.all().iter().map(|hint| (net.to_owned(), *hint)).collect();
        match self {
            Self::ControlNet(ControlConfig { hint, .. }) => named("control_net", hint),
            Self::T2i(T2iConfig { hint, .. }) => named("t2i", hint),
            Self::Lora(_) => Vec::new(),
            Self::Decoupled(config) => {
                let split = Split::colour_structure_texture();
                let of = |name: &str| Some((name.to_owned(), config.parts.get(name)?.hint));
                split.names().filter_map(of).collect() // in the order in which a Decoupled sees them
            }
        }
    }

    /// Which field cannot be honoured, as far as the recipe alone can tell.
    pub(crate) fn check(&self, recipe: &Recipe) -> Result<()> {
        for (name, hint) in self.hints() {
            let field = if matches!(self, Self::Decoupled(_)) {
                format!("parts.{name}.hint")
            } else {
                "hint".to_owned()
            };
            hint.check().map_err(|e| e.within(&field))?;
            if hint == HintTechnique::Motion {
                return Err(Error::config(field, "motion: image sets have none, take another hint"));
            }
        }
        if recipe.regularization.corruption.is_some() {
            let reason = "hints are of whole images: leave regularization.corruption out";
            return Err(Error::config("base", reason));
        }
        let moves = |a: &AugmentTechnique| !matches!(a, AugmentTechnique::LabelDropout(_));
        if recipe.latent.is_some() && recipe.regularization.augment.iter().any(moves) {
            let reason = "changes latents, where hints are of the images as they are: leave it out";
            return Err(Error::config("regularization.augment", reason));
        }
        if recipe.latent.as_ref().is_some_and(|latent| !latent.augment.is_empty()) {
            let reason = "changes images before they are encoded, where hints are of the images as they are: leave it out";
            return Err(Error::config("latent.augment", reason));
        }
        let unet = matches!(
            recipe.model,
            ModelConfig::Unet(_) | ModelConfig::UNet2DModel(_) | ModelConfig::UNet2DConditionModel(_)
        );
        let dit = matches!(recipe.model, ModelConfig::Dit(_) | ModelConfig::DiTTransformer2DModel(_));
        let fits = match self {
            Self::ControlNet(_) | Self::Decoupled(_) => unet || dit,
            Self::T2i(_) => unet,
            Self::Lora(_) => true,
        };
        if !fits {
            let reason = "a control_net needs a UNet or a transformer of images, a t2i a UNet, as its base";
            return Err(Error::config("kind", reason));
        }
        self.check_fields(unet)
    }

    fn check_fields(&self, unet: bool) -> Result<()> {
        match self {
            Self::ControlNet(config) if unet && config.blocks.is_some() => {
                Err(Error::config("blocks", "is for transformers: leave it out"))
            }
            Self::ControlNet(config) if !unet && config.embedding_channels.is_some() => {
                Err(Error::config("embedding_channels", "is for UNets: leave it out"))
            }
            Self::ControlNet(_) | Self::T2i(_) => Ok(()),
            Self::Lora(config) => config.lora.check().map_err(|e| e.within("lora")),
            Self::Decoupled(config) => config.check(),
        }
    }
}

impl DecoupledConfig {
    fn check(&self) -> Result<()> {
        let split = Split::colour_structure_texture();
        let known: Vec<&str> = split.names().collect();
        if let Some(name) = self.parts.keys().find(|name| !known.contains(&name.as_str())) {
            let reason = format!("is not a part: they are {}", known.join(", "));
            return Err(Error::config(format!("parts.{name}"), reason));
        }
        if self.parts.is_empty() {
            return Err(Error::config("parts", format!("is empty: name one of {}", known.join(", "))));
        }
        if let Some((name, part)) = self.parts.iter().find(|(_, part)| !part.weight.is_finite()) {
            let reason = format!("{}: a finite number is needed", part.weight);
            return Err(Error::config(format!("parts.{name}.weight"), reason));
        }
        if !self.learn_weights {
            if let Some((name, _)) = self.parts.iter().find(|(_, part)| part.weight == 0.0) {
                let reason = "0: its net would not be trained; leave the part out";
                return Err(Error::config(format!("parts.{name}.weight"), reason));
            }
            if self.parts.values().all(|part| part.from.is_some()) {
                let reason =
                    "false, and all parts come from other arms: nothing would be trained; set it to true";
                return Err(Error::config("learn_weights", reason));
            }
        }
        Ok(())
    }
}

/// The place of a part among the bases.
pub(crate) fn part_key(name: &str) -> String {
    format!("parts.{name}.from")
}
