//! Autoencoders by their configuration: built, loaded and saved.

use crate::fields::{at, read, with_class_only};
use crate::model::{OpenOptions, load_current, named};
use crate::{MAX_SHARD_BYTES, WeightFiles, resolve, save_folder};
use heldout_core::{Error, Result};
use heldout_vae::{
    AutoencoderKLConfig, AutoencoderKl, AutoencoderTiny, AutoencoderTinyConfig, LatentModel, LatentScale,
    LatentStatistics, VQModelConfig, VqModel,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Tensor, nn};

/// Their classes in diffusers.
pub(crate) const AUTOENCODERS: [&str; 3] = ["AutoencoderKL", "VQModel", "AutoencoderTiny"];

/// Every autoencoder that can be built, as a `config.json` names it: these classes of diffusers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "_class_name")]
#[allow(missing_docs, reason = "they are diffusers' classes")]
pub enum AutoencoderConfig {
    AutoencoderKL(AutoencoderKLConfig),
    VQModel(VQModelConfig),
    AutoencoderTiny(AutoencoderTinyConfig),
}

impl AutoencoderConfig {
    /// From the fields of a `config.json`; those that start with `_`, but for the class, tell of the file.
    pub fn from_json(config: &Map<String, Value>) -> Result<Self> {
        read(with_class_only(config))
    }

    /// The fields of a `config.json`.
    pub fn to_json(&self) -> Result<Map<String, Value>> {
        match serde_json::to_value(self).map_err(|e| Error::config("config", e.to_string()))? {
            Value::Object(fields) => Ok(fields),
            _ => unreachable!("a configuration has fields"),
        }
    }

    /// Builds it with fresh weights under `vs`.
    pub fn build(&self, vs: &nn::Path<'_>) -> Result<Rc<dyn LatentModel>> {
        Ok(match self {
            Self::AutoencoderKL(config) => Rc::new(AutoencoderKl::new(vs, config)?),
            Self::VQModel(config) => Rc::new(VqModel::new(vs, config)?),
            Self::AutoencoderTiny(config) => Rc::new(AutoencoderTiny::new(vs, config)?),
        })
    }

    /// Channels of its images.
    pub fn channels(&self) -> i64 {
        match self {
            Self::AutoencoderKL(config) => config.in_channels,
            Self::VQModel(config) => config.in_channels,
            Self::AutoencoderTiny(config) => config.in_channels,
        }
    }

    /// Side of the images that it was made for; that of 64 places where the class does not say.
    pub fn side(&self) -> i64 {
        match self {
            Self::AutoencoderKL(config) => config.sample_size,
            Self::VQModel(config) => config.sample_size,
            Self::AutoencoderTiny(config) => 64 << (config.num_encoder_blocks.len().max(1) - 1),
        }
    }

    /// Pixels of a side for each place of a latent.
    pub fn factor(&self) -> Result<i64> {
        let side = 1 << 12; // a multiple of every factor there is
        Ok(side / self.latent_shape([self.channels(), side, side])?[1])
    }

    /// `[c, h, w]` of the latents of images `[C, H, W]`, or why it cannot take them.
    pub fn latent_shape(&self, images: [i64; 3]) -> Result<[i64; 3]> {
        match self {
            Self::AutoencoderKL(config) => config.latent_shape(images),
            Self::VQModel(config) => config.latent_shape(images),
            Self::AutoencoderTiny(config) => config.latent_shape(images),
        }
    }
}

/// An autoencoder with its weights.
#[derive(Debug)]
pub struct AutoencoderModel {
    /// What it is.
    pub config: AutoencoderConfig,
    /// Its weights, by name.
    pub vars: nn::VarStore,
    /// The network, which shares them.
    pub network: Rc<dyn LatentModel>,
}

impl AutoencoderModel {
    /// With fresh weights, from libtorch's generator.
    pub fn fresh(config: AutoencoderConfig, device: Device) -> Result<Self> {
        let vars = nn::VarStore::new(device);
        let network = config.build(&vars.root())?;
        Ok(Self { config, vars, network })
    }

    /// Opens a folder of diffusers, or a model of the hub by its name, frozen.
    ///
    /// # Errors
    /// Whatever the files lack; all missing, unexpected and misshapen tensors in one message.
    pub fn open(source: &str, device: Device, options: OpenOptions<'_>) -> Result<Self> {
        let path = resolve(source, options.variant)?;
        let files = WeightFiles::open(&path, options.variant)?;
        let config = AutoencoderConfig::from_json(files.config()?).map_err(|e| at(&path, e))?;
        let mut vars = nn::VarStore::new(device);
        let network = config.build(&vars.root()).map_err(|e| at(&path, e))?;
        load_current(&mut vars, &files, options)?;
        vars.freeze();
        Ok(Self { config, vars, network })
    }

    /// Brings its latents, of which `measured` was measured, to mean 0 and variance 1: each channel where its class has
    /// pointwise convolutions that take it in, since diffusers' pipelines know one factor for all; all together otherwise.
    ///
    /// # Errors
    /// A scale that its class cannot say.
    pub fn normalize_latents(&mut self, measured: &LatentStatistics) -> Result<()> {
        let each = matches!(&self.config, AutoencoderConfig::AutoencoderKL(config)
            if config.use_quant_conv && config.use_post_quant_conv);
        let network = self.network_mut()?;
        let found = if each { measured.scale() } else { measured.uniform_scale() };
        network.set_latent_scale(network.latent_scale().then(&found))?;
        if each { self.fold_latent_scale() } else { self.note_latent_scale() }
    }

    /// Moves its scale into the weights, so that the configuration says 1 and no shift: for pipelines that know one factor
    /// for all channels.
    ///
    /// # Errors
    /// A class without weights that can take it.
    pub fn fold_latent_scale(&mut self) -> Result<()> {
        self.network_mut()?.fold_latent_scale()?;
        self.note_latent_scale()
    }

    fn network_mut(&mut self) -> Result<&mut (dyn LatentModel + 'static)> {
        let in_use = || Error::config("latent_scale", "the autoencoder is in use: change it before");
        Rc::get_mut(&mut self.network).ok_or_else(in_use)
    }

    /// Brings the configuration up to the scale that the network has.
    fn note_latent_scale(&mut self) -> Result<()> {
        let scale: LatentScale = self.network.latent_scale().clone();
        let uniform = scale.as_uniform().unwrap_or((0.0, 1.0));
        match &mut self.config {
            AutoencoderConfig::AutoencoderKL(config) => config.set_latent_scale(&scale)?,
            AutoencoderConfig::VQModel(config) => config.scaling_factor = uniform.1,
            AutoencoderConfig::AutoencoderTiny(config) => {
                (config.shift_factor, config.scaling_factor) = uniform;
            }
        }
        Ok(())
    }

    /// Every tensor that is stored, by name.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.vars)
    }

    /// Writes a folder that diffusers opens.
    pub fn save(&self, folder: &Path) -> Result<()> {
        save_folder(folder, &self.config.to_json()?, &self.tensors(), MAX_SHARD_BYTES)
    }
}
