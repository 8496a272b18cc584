//! Trained adapters in diffusers' files.

use super::build::{LORA, Site};
use super::config::AdapterConfig;
use crate::recipe::Recipe;
use crate::sample::{Opened, open, space_of};
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use heldout_adapters::{ControlNetModelConfig, copy_weights};
use heldout_core::Error;
use heldout_weights::{ControlNetModel, ModelConfig};
use std::path::Path;
use tch::Device;

/// Writes the adapter of an arm into the folder `out`; gives the name of its class.
pub(crate) fn export_adapter(
    (arm, path): (&Path, &Path),
    (recipe, config): (&Recipe, &AdapterConfig),
    weights: &WeightsChoice,
    out: &Path,
) -> Result<String> {
    let refuse = |reason: &str| Err(anyhow!(Error::file(arm, reason.to_owned())));
    let space = space_of(arm, recipe, Device::Cpu)?;
    let opened = || open(arm, path, recipe, &space, weights, Device::Cpu);
    match (config, &recipe.model) {
        (AdapterConfig::ControlNet(control), ModelConfig::UNet2DConditionModel(unet)) => {
            let site = Site { recipe, space: &space, seed: 0, device: Device::Cpu, bases: None };
            let config = ControlNetModelConfig::from_unet(unet, site.hint(control)?)?;
            let model = ControlNetModel::fresh(config, Device::Cpu)?;
            copy_weights(&opened()?.vars, &model.vars, &[])?;
            model.save(out)?;
            Ok("ControlNetModel".to_owned())
        }
        (AdapterConfig::ControlNet(_), _) => refuse(
            "diffusers' ControlNetModel is of a UNet2DConditionModel: train the base with model.kind = \
             \"UNet2DConditionModel\"",
        ),
        (AdapterConfig::Lora(_), model) => {
            let transformer = matches!(model, ModelConfig::Dit(_) | ModelConfig::DiTTransformer2DModel(_));
            let Opened { adaptation, .. } = opened()?;
            if let Some(set) = adaptation.and_then(|a| a.lora) {
                set.save(LORA, out, if transformer { "transformer" } else { "unet" })?;
            }
            Ok("LoRA".to_owned())
        }
        (AdapterConfig::T2i(_) | AdapterConfig::Decoupled(_), _) => {
            refuse("diffusers has no file for this adapter: control_net and lora arms can be exported")
        }
    }
}
