//! A trained model, or one of a published layout, as a folder that diffusers opens.

mod pipeline;

use crate::adapter::export_adapter;
use crate::sample::{arm_folder, recipe_of, trained};
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_weights::{Component, ComponentConfig, Model, OpenOptions};
use std::path::Path;
use tch::{Device, Kind};

/// What to export.
#[derive(Debug)]
pub struct ExportRequest<'a> {
    /// An arm's folder or one of its checkpoints; or a model folder or file, or a name on the hub.
    pub model: &'a str,
    /// Where the folder goes.
    pub out: &'a Path,
    /// Which of the arm's weights.
    pub weights: &'a WeightsChoice,
    /// As in `fp16`: which of several precisions of a folder.
    pub variant: Option<&'a str>,
    /// Channels of an attention head, for layouts whose shapes do not tell.
    pub head_channels: Option<i64>,
    /// Whether a whole pipeline is wanted: an arm's network with the scheduler and the autoencoder that go with it.
    pub pipeline: bool,
}

/// Writes the folder; gives the name of its class.
pub fn export(request: &ExportRequest<'_>) -> Result<String> {
    let ExportRequest { model, out, weights, variant, head_channels, pipeline } = *request;
    let path = Path::new(model);
    let model = match arm_folder(path) {
        Ok(arm) => {
            let recipe = recipe_of(&arm, &[])?;
            if let Some(adapter) = &recipe.adapter {
                if pipeline {
                    let reason =
                        "an adapter is no pipeline: leave it out, and give the adapter to that of its base";
                    return Err(anyhow!(Error::config("--pipeline", reason)));
                }
                return export_adapter((&arm, path), (&recipe, adapter), weights, out);
            }
            let model = trained(path, weights, Device::Cpu)?;
            if pipeline {
                return pipeline::export_pipeline(&arm, &recipe, model, out);
            }
            Component::Network(model)
        }
        Err(_) if pipeline => {
            let reason =
                "needs a model that was trained here, whose recipe says how it is sampled: leave it out";
            return Err(anyhow!(Error::config("--pipeline", reason)));
        }
        Err(_) => {
            let kind = Model::stored_kind(model, variant)?.unwrap_or(Kind::Float);
            Component::open(model, Device::Cpu, OpenOptions { variant, kind: Some(kind), head_channels })?
        }
    };
    model.save(out)?;
    let config = match model.config() {
        ComponentConfig::Network(config) => ComponentConfig::Network(config.to_diffusers().unwrap_or(config)),
        other => other,
    };
    let fields = config.to_json()?;
    Ok(fields["_class_name"].as_str().unwrap_or_default().to_owned())
}
