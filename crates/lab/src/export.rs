//! A trained model, or one of a published layout, as a folder that diffusers opens.

use crate::sample::{arm_folder, trained};
use crate::weights_choice::WeightsChoice;
use anyhow::Result;
use heldout_weights::{Model, OpenOptions};
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
}

/// Writes the folder; gives the name of its class.
pub fn export(request: &ExportRequest<'_>) -> Result<String> {
    let ExportRequest { model, out, weights, variant, head_channels } = *request;
    let path = Path::new(model);
    let model = match arm_folder(path) {
        Ok(_) => trained(path, weights, Device::Cpu)?,
        Err(_) => {
            let kind = Model::stored_kind(model, variant)?.unwrap_or(Kind::Float);
            Model::open(model, Device::Cpu, OpenOptions { variant, kind: Some(kind), head_channels })?
        }
    };
    model.save(out)?;
    let config = model.config.to_diffusers().unwrap_or(model.config);
    let fields = config.to_json()?;
    Ok(fields["_class_name"].as_str().unwrap_or_default().to_owned())
}
