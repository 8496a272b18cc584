//! The models that an adapter was made for: found, read, and known again.

use super::config::Base;
use crate::hash::{add_tensors, hex};
use crate::recipe::{INITIAL_WEIGHTS, Recipe};
use crate::run::read_json;
use crate::sample::{arm_folder, recipe_of, trained};
use crate::weights_choice::WeightsChoice;
use anyhow::{Context, Result, anyhow, bail};
use heldout_core::Error;
use heldout_train::write_atomically;
use heldout_weights::{Model, OpenOptions};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};
use toml::Value;

const FILE: &str = "base.json";

/// `base.json` of an arm: which models it was trained on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Record {
    bases: BTreeMap<String, Known>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    /// Absolute, or from the arm's folder.
    path: PathBuf,
    /// Of all weights and their names.
    sha256: String,
}

/// Where the bases of one arm are.
#[derive(Debug, Clone)]
pub(crate) struct Bases {
    arm: PathBuf,
    paths: BTreeMap<String, PathBuf>,
}

impl Bases {
    /// Of an arm that will be in `arm`.
    pub(crate) fn new(needed: Vec<(String, &Base)>, arm: &Path, seed: u64) -> Self {
        let path = |base: &Base| match base {
            Base::Arm { arm } => Path::new("..").join(format!("{arm}-seed{seed}")),
            Base::Path(path) if Path::new(path).exists() => {
                std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path))
            }
            Base::Path(name) => PathBuf::from(name),
        };
        let paths = needed.into_iter().map(|(key, base)| (key, path(base))).collect();
        Self { arm: arm.to_owned(), paths }
    }

    /// Of an arm that was trained.
    pub(crate) fn read(arm: &Path) -> Result<Self> {
        let Record { bases } = read_json(&arm.join(FILE))?;
        let paths = bases.into_iter().map(|(key, known)| (key, known.path)).collect();
        Ok(Self { arm: arm.to_owned(), paths })
    }

    /// The folder of a base.
    pub(crate) fn path(&self, key: &str) -> PathBuf {
        match self.paths.get(key) {
            Some(path) if path.starts_with("..") => self.arm.join(path),
            Some(path) => path.clone(),
            None => PathBuf::new(),
        }
    }

    /// Remembers a base that is used for the first time, and refuses one that is another now.
    pub(crate) fn recognize(&self, key: &str, tensors: &[(String, Tensor)]) -> Result<()> {
        let file = self.arm.join(FILE);
        let mut record: Record = if file.is_file() { read_json(&file)? } else { Record::default() };
        let sha256 = fingerprint(tensors)?;
        match record.bases.get(key) {
            Some(known) if known.sha256 == sha256 => Ok(()),
            Some(known) => {
                let (before, now) = (&known.sha256[..12.min(known.sha256.len())], &sha256[..12]);
                let reason = format!(
                    "is another base than {} was trained on (its weights were {before}.. and are {now}..): put it back, \
                     or train the adapter anew",
                    self.arm.display()
                );
                Err(anyhow!(Error::file(self.path(key), reason)))
            }
            None => {
                let path = self.paths.get(key).cloned().unwrap_or_default();
                record.bases.insert(key.to_owned(), Known { path, sha256 });
                Ok(write_atomically(&file, serde_json::to_string_pretty(&record)?.as_bytes())?)
            }
        }
    }
}

/// The evaluated weights of an arm, or those of a model's folder.
pub(crate) fn open(path: &Path, device: Device) -> Result<Model> {
    match arm_folder(path) {
        Ok(_) => trained(path, &WeightsChoice::default(), device),
        Err(_) => Ok(Model::open(&path.to_string_lossy(), device, OpenOptions::default())?),
    }
}

/// The network of a base that is named by its path, so that a recipe need not write it again.
fn model_of(path: &str) -> Result<Value> {
    let config = match arm_folder(Path::new(path)) {
        Ok(arm) => recipe_of(&arm, &[])?.model,
        Err(_) => Model::config_of(path, OpenOptions::default())?,
    };
    Ok(Value::try_from(config)?)
}

/// The model of a base that is named by its path, where the recipe has none.
pub(crate) fn with_base_model(recipe: &mut Value) -> Result<()> {
    let Some(table) = recipe.as_table_mut().filter(|table| !table.contains_key("model")) else {
        return Ok(());
    };
    let base = table.get("adapter").and_then(|adapter| adapter.get("base")).and_then(Value::as_str);
    if let Some(base) = base.map(str::to_owned) {
        table.insert("model".to_owned(), model_of(&base).context("adapter.base")?);
    }
    Ok(())
}

/// Whether the arms that a recipe is added to come before it, and fit.
pub(crate) fn check_bases(recipe: &Recipe, before: &[(String, Recipe)]) -> Result<()> {
    for (key, base) in recipe.bases() {
        let Base::Arm { arm } = base else { continue };
        let Some((_, found)) = before.iter().find(|(name, _)| name == arm) else {
            let names: Vec<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
            let known = if names.is_empty() { "there is none".to_owned() } else { names.join(", ") };
            let reason = format!("`{arm}` is no arm that comes before this one: {known}");
            bail!(Error::config(format!("{}.arm", field(&key)), reason));
        };
        if key == "base" || key == INITIAL_WEIGHTS {
            check_base(found, recipe, (arm, &key))?;
        }
    }
    Ok(())
}

/// Where a recipe names the base of this place.
fn field(key: &str) -> String {
    if key == INITIAL_WEIGHTS { key.to_owned() } else { format!("adapter.{key}") }
}

/// Whether a base that was trained by `base` can be that of `recipe` in the place `key`: what its weights mean must be the
/// same.
pub(crate) fn check_base(
    base: &Recipe,
    recipe: &Recipe,
    (name, key): (&str, &str),
) -> heldout_core::Result<()> {
    let refuse = |field: &str| {
        let reason = format!("is not that of the base, {name}: leave it as it is there");
        Err(Error::config(field, reason))
    };
    if base.adapter.is_some() {
        let reason = format!("{name}: is an adapter itself, name a model without one");
        return Err(Error::config(field(key), reason));
    }
    if base.model != recipe.model {
        return refuse("model");
    }
    if base.schedule != recipe.schedule {
        return refuse("schedule");
    }
    if base.objective.prediction != recipe.objective.prediction {
        return refuse("objective.prediction");
    }
    if base.text.as_ref().map(|text| &text.encoder) != recipe.text.as_ref().map(|text| &text.encoder) {
        return refuse("text.encoder");
    }
    if base.latent != recipe.latent {
        return refuse("latent");
    }
    Ok(())
}

fn fingerprint(tensors: &[(String, Tensor)]) -> Result<String> {
    let mut hash = Sha256::new();
    add_tensors(&mut hash, tensors)?;
    Ok(hex(hash))
}
