//! Whatever one folder of diffusers holds: a network, an autoencoder or a ControlNet.

use crate::autoencoder::AUTOENCODERS;
use crate::control_net::CONTROL_NET;
use crate::fields::at;
use crate::model::known_classes;
use crate::{
    AutoencoderConfig, AutoencoderModel, ControlNetModel, Example, Model, ModelConfig, OpenOptions,
    WeightFiles, resolve,
};
use heldout_adapters::ControlNetModelConfig;
use heldout_core::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;
use tch::Device;

/// The configuration of anything that can be built, as a `config.json` names it.
#[derive(Debug, Clone, PartialEq)]
pub enum ComponentConfig {
    /// A network that denoises.
    Network(ModelConfig),
    /// An autoencoder.
    Autoencoder(AutoencoderConfig),
    /// A ControlNet.
    ControlNet(Box<ControlNetModelConfig>),
}

impl ComponentConfig {
    /// From the fields of a `config.json`; those that start with `_`, but for the class, tell of the file.
    ///
    /// # Errors
    /// A class that is not read (the message lists those that are), or a field that cannot be honoured.
    pub fn from_json(config: &Map<String, Value>) -> Result<Self> {
        let class = class(config);
        if AUTOENCODERS.contains(&class) {
            return AutoencoderConfig::from_json(config).map(Self::Autoencoder);
        }
        if class == CONTROL_NET {
            return ControlNetModel::config_of(config).map(|config| Self::ControlNet(Box::new(config)));
        }
        let networks = known_classes();
        if !networks.contains(&class) {
            let known = [&networks[..], &AUTOENCODERS, &[CONTROL_NET]].concat().join(", ");
            return Err(Error::config("_class_name", format!("`{class}` is not read: one of {known}")));
        }
        ModelConfig::from_json(config).map(Self::Network)
    }

    /// The fields of a `config.json`.
    pub fn to_json(&self) -> Result<Map<String, Value>> {
        match self {
            Self::Network(config) => config.to_json(),
            Self::Autoencoder(config) => config.to_json(),
            Self::ControlNet(config) => ControlNetModel::fields_of(config),
        }
    }

    /// That of a model's files, by path or name; its weights are not read.
    pub fn of(source: &str, options: OpenOptions<'_>) -> Result<Self> {
        let path = resolve(source, options.variant)?;
        let files = WeightFiles::open(&path, options.variant)?;
        match files.config() {
            Ok(config) if is_class_of_its_own(config) => Self::from_json(config).map_err(|e| at(&path, e)),
            _ => Model::config_of(&as_source(&path), options).map(Self::Network),
        }
    }

    /// The network.
    ///
    /// # Errors
    /// It is something else.
    pub fn into_network(self) -> Result<ModelConfig> {
        match self {
            Self::Network(config) => Ok(config),
            other => {
                let reason = format!("{}: a network is needed", class(&other.to_json()?));
                Err(Error::config("_class_name", reason))
            }
        }
    }

    /// The shape of a batch that it was made for, and the conditions that it needs, with `tokens` tokens of a context;
    /// `side` is the side of the images (of a ControlNet, of what its UNet sees) where the configuration does not say.
    pub fn example(&self, batch: i64, side: Option<i64>, tokens: i64) -> Result<Example> {
        match self {
            Self::Network(config) => config.example(batch, side, tokens),
            Self::Autoencoder(config) => {
                let side = side.unwrap_or_else(|| config.side());
                Ok(Example { sample: vec![batch, config.channels(), side, side], conditions: Vec::new() })
            }
            Self::ControlNet(config) => {
                let (plan, hint) = (config.plan()?, config.hint());
                let side = side.unwrap_or(1 << (plan.halvings() + 3));
                let mut conditions = plan.conditions(batch, tokens, [side; 2]);
                let of_hint = side << (hint.conditioning_embedding_out_channels.len().max(1) - 1);
                conditions.push(("hint", vec![batch, hint.conditioning_channels, of_hint, of_hint]));
                Ok(Example { sample: vec![batch, plan.image_channels(), side, side], conditions })
            }
        }
    }

    /// Whether images of this shape fit.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        match self {
            Self::Network(config) => config.check_images(channels, height, width),
            Self::Autoencoder(config) => config.latent_shape([channels, height, width]).map(drop),
            Self::ControlNet(config) => config.plan()?.check_images(channels, height, width),
        }
    }
}

/// Anything that a folder of diffusers holds, with its weights.
#[derive(Debug)]
pub enum Component {
    /// A network that denoises.
    Network(Model),
    /// An autoencoder, frozen.
    Autoencoder(AutoencoderModel),
    /// A ControlNet.
    ControlNet(Box<ControlNetModel>),
}

impl Component {
    /// Opens what [`Model::open`], [`AutoencoderModel::open`] or [`ControlNetModel::open`] does: the class in `config.json`
    /// says which.
    ///
    /// # Errors
    /// A class that is not read, and theirs.
    pub fn open(source: &str, device: Device, options: OpenOptions<'_>) -> Result<Self> {
        let path = resolve(source, options.variant)?;
        let files = WeightFiles::open(&path, options.variant)?;
        let source = &as_source(&path);
        let config = files.config().ok().filter(|config| is_class_of_its_own(config));
        let config = config.map(ComponentConfig::from_json).transpose().map_err(|e| at(&path, e))?;
        Ok(match config {
            Some(ComponentConfig::Autoencoder(_)) => {
                Self::Autoencoder(AutoencoderModel::open(source, device, options)?)
            }
            Some(ComponentConfig::ControlNet(_)) => {
                Self::ControlNet(Box::new(ControlNetModel::open(source, device, options)?))
            }
            Some(ComponentConfig::Network(_)) | None => Self::Network(Model::open(source, device, options)?),
        })
    }

    /// What it is.
    pub fn config(&self) -> ComponentConfig {
        match self {
            Self::Network(model) => ComponentConfig::Network(model.config.clone()),
            Self::Autoencoder(model) => ComponentConfig::Autoencoder(model.config.clone()),
            Self::ControlNet(model) => ComponentConfig::ControlNet(Box::new(model.config.clone())),
        }
    }

    /// Writes a folder: as a class of diffusers if there is one, otherwise as a class of ours.
    pub fn save(&self, folder: &Path) -> Result<()> {
        match self {
            Self::Network(model) => model.save(folder),
            Self::Autoencoder(model) => model.save(folder),
            Self::ControlNet(model) => model.save(folder),
        }
    }
}

fn class(config: &Map<String, Value>) -> &str {
    config.get("_class_name").and_then(Value::as_str).unwrap_or_default()
}

/// Whether the class says what the files hold; without one, the names of their tensors do.
fn is_class_of_its_own(config: &Map<String, Value>) -> bool {
    !class(config).is_empty()
}

/// A path that was found, as what is opened.
fn as_source(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
