//! LoRA: low-rank changes of linear layers and convolutions, `W + s B A` with `s = alpha / r`; Hu et al. 2022, Eq. 3.
//!
//! The base is built inside [`heldout_nn::adaptable`]; nothing in it knows of LoRA.

mod config;
mod file;
mod names;
mod save;

pub use config::LoraConfig;
pub use file::LoraFile;

use file::LoraLayer;
use heldout_core::{Error, Result};
use heldout_nn::LowRankSites;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tch::{Tensor, nn};

/// The LoRAs of one network, by name; what they add is summed.
///
/// Law: a LoRA that has just been made leaves the network's output as it is, to the last bit. Law: merged and unmerged give
/// the same up to rounding.
#[derive(Debug)]
pub struct LoraSet {
    sites: LowRankSites,
    loras: BTreeMap<String, Lora>,
    merged: bool,
}

#[derive(Debug)]
struct Lora {
    config: LoraConfig,
    gain: Rc<Cell<f64>>,
    /// `A` and `B` of each layer.
    layers: BTreeMap<String, [Tensor; 2]>,
}

impl LoraSet {
    /// None yet, for the network whose layers have these places.
    pub fn new(sites: LowRankSites) -> Self {
        Self { sites, loras: BTreeMap::new(), merged: false }
    }

    /// A LoRA that can be trained, called `name`: `A` and `B` of every layer that the configuration targets are made under
    /// `vs`, with the layer's name and peft's (`lora_A.weight`, `lora_B.weight`), from libtorch's generator.
    ///
    /// # Errors
    /// A configuration that is impossible or targets a layer that is not there; a name that is taken; a merged set.
    pub fn add(&mut self, name: &str, vs: &nn::Path<'_>, config: LoraConfig) -> Result<()> {
        self.check_free(name)?;
        config.check()?;
        let targets = config.targets(self.sites.keys().map(String::as_str))?;
        let gain = Rc::new(Cell::new(1.0));
        let make = |layer: &&str| {
            let under = layer.split('.').fold(vs.clone(), |path, part| path / part);
            let (rank, scale) = (config.rank(layer), config.scale(layer));
            ((*layer).to_owned(), self.sites[*layer].add(&under, rank, scale, &gain))
        };
        let layers = targets.iter().map(make).collect();
        self.loras.insert(name.to_owned(), Lora { config, gain, layers });
        Ok(())
    }

    /// A LoRA from a file, called `name`: the part of it that is for `component`, as `unet`, `transformer` or `text_encoder`.
    /// Its tensors are made under `vs` as by [`Self::add`].
    ///
    /// # Errors
    /// A file without this component, or for another base: its first layer that is not here or has another shape is named. A
    /// name that is taken; a merged set. The set is then as it was.
    pub fn load(&mut self, name: &str, vs: &nn::Path<'_>, file: &LoraFile, component: &str) -> Result<()> {
        self.check_free(name)?;
        let layers = file.layers_of(component, &self.sites)?;
        let config = file.config_of(component, &layers)?;
        self.add(name, vs, config)?;
        let ours = &self.loras[name].layers;
        tch::no_grad(|| -> Result<()> {
            for (layer, LoraLayer { a, b, .. }) in &layers {
                for (to, from) in ours[layer].iter().zip([a, b]) {
                    to.shallow_clone().f_copy_(&from.f_view_as(to)?)?;
                }
            }
            Ok(())
        })
    }

    /// Writes a LoRA as `pytorch_lora_weights.safetensors` in `folder`, as diffusers does, for `component`; `load_lora_weights`
    /// of a pipeline reads it.
    ///
    /// # Errors
    /// No LoRA of this name; whatever the file system refuses.
    pub fn save(&self, name: &str, folder: &Path, component: &str) -> Result<()> {
        let Lora { config, layers, .. } = self.get(name)?;
        save::save(folder, component, config, layers)
    }

    /// How strongly a LoRA acts, 1 at first: its part is multiplied by it. At 0 it costs nothing.
    ///
    /// # Errors
    /// No LoRA of this name; a strength that is not finite; a merged set.
    pub fn set_strength(&self, name: &str, strength: f64) -> Result<()> {
        self.check_unmerged()?;
        if !strength.is_finite() {
            return Err(Error::config(
                format!("lora.{name}"),
                format!("{strength}: a finite number is needed"),
            ));
        }
        self.get(name)?.gain.set(strength);
        Ok(())
    }

    /// Takes a LoRA out of the network; its variables stay in their store.
    ///
    /// # Errors
    /// No LoRA of this name; a merged set.
    pub fn remove(&mut self, name: &str) -> Result<()> {
        self.check_unmerged()?;
        let gain = Rc::clone(&self.get(name)?.gain);
        self.sites.values().for_each(|site| site.remove(&gain));
        self.loras.remove(name);
        Ok(())
    }

    /// Writes `W + sum of strength s B A` into the base: it then costs what it cost without a LoRA. The original weights of the
    /// changed layers are kept. Merged LoRAs cannot be trained.
    pub fn merge(&mut self) {
        self.sites.values().for_each(|site| site.merge());
        self.merged = true;
    }

    /// Puts the original weights back, to the last bit.
    pub fn unmerge(&mut self) {
        self.sites.values().for_each(|site| site.unmerge());
        self.merged = false;
    }

    /// Every LoRA with its configuration and strength.
    pub fn loras(&self) -> impl Iterator<Item = (&str, &LoraConfig, f64)> {
        self.loras.iter().map(|(name, lora)| (name.as_str(), &lora.config, lora.gain.get()))
    }

    /// The layers that a LoRA changes, with its `A` and `B`.
    ///
    /// # Errors
    /// No LoRA of this name.
    pub fn layers(&self, name: &str) -> Result<&BTreeMap<String, [Tensor; 2]>> {
        Ok(&self.get(name)?.layers)
    }

    fn get(&self, name: &str) -> Result<&Lora> {
        self.loras.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.loras.keys().map(String::as_str).collect();
            Error::config("lora", format!("{name}: no LoRA of this name, there are [{}]", known.join(", ")))
        })
    }

    fn check_free(&self, name: &str) -> Result<()> {
        self.check_unmerged()?;
        match self.loras.contains_key(name) {
            true => Err(Error::config("lora", format!("{name}: is there already, give another name"))),
            false => Ok(()),
        }
    }

    fn check_unmerged(&self) -> Result<()> {
        match self.merged {
            true => Err(Error::config("lora", "is merged into the base: call `unmerge` first")),
            false => Ok(()),
        }
    }
}
