//! ControlNets as folders.

use crate::fields::{at, read};
use crate::model::{OpenOptions, load_current, named};
use crate::{MAX_SHARD_BYTES, WeightFiles, resolve, save_folder};
use heldout_adapters::{ControlNet, ControlNetModelConfig};
use heldout_core::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;
use tch::{Device, Tensor, nn};

/// Its class in diffusers.
pub(crate) const CONTROL_NET: &str = "ControlNetModel";

/// A ControlNet with its weights.
#[derive(Debug)]
pub struct ControlNetModel {
    /// What it is.
    pub config: ControlNetModelConfig,
    /// Its weights, by name.
    pub vars: nn::VarStore,
    /// The network, which shares them.
    pub network: ControlNet,
}

impl ControlNetModel {
    /// With fresh weights, from libtorch's generator.
    pub fn fresh(config: ControlNetModelConfig, device: Device) -> Result<Self> {
        let vars = nn::VarStore::new(device);
        let network = ControlNet::new(&vars.root(), &config)?;
        Ok(Self { config, vars, network })
    }

    /// Its configuration from the fields of a `config.json`.
    ///
    /// # Errors
    /// Another class, or a field that cannot be honoured.
    pub fn config_of(fields: &Map<String, Value>) -> Result<ControlNetModelConfig> {
        let class = fields.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        if class != CONTROL_NET {
            return Err(Error::config("_class_name", format!("`{class}`: a {CONTROL_NET} is needed")));
        }
        let mut fields = fields.clone();
        fields.retain(|name, _| !name.starts_with('_'));
        read(Value::Object(fields))
    }

    /// Opens a folder of diffusers, or a model of the hub by its name.
    ///
    /// # Errors
    /// Whatever the files lack; all missing, unexpected and misshapen tensors in one message.
    pub fn open(source: &str, device: Device, options: OpenOptions<'_>) -> Result<Self> {
        let path = resolve(source, options.variant)?;
        let files = WeightFiles::open(&path, options.variant)?;
        let config = Self::config_of(files.config()?).map_err(|e| at(&path, e))?;
        let mut vars = nn::VarStore::new(device);
        let network = ControlNet::new(&vars.root(), &config).map_err(|e| at(&path, e))?;
        load_current(&mut vars, &files, options)?;
        Ok(Self { config, vars, network })
    }

    /// The fields of a `config.json`.
    pub fn fields_of(config: &ControlNetModelConfig) -> Result<Map<String, Value>> {
        let value = serde_json::to_value(config).map_err(|e| Error::config("config", e.to_string()))?;
        let Value::Object(own) = value else { unreachable!("a configuration has fields") };
        let mut fields = Map::from_iter([("_class_name".to_owned(), Value::from(CONTROL_NET))]);
        fields.extend(own);
        Ok(fields)
    }

    /// Every tensor that is stored, by name.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.vars)
    }

    /// Writes a folder that diffusers opens.
    pub fn save(&self, folder: &Path) -> Result<()> {
        save_folder(folder, &Self::fields_of(&self.config)?, &self.tensors(), MAX_SHARD_BYTES)
    }
}
