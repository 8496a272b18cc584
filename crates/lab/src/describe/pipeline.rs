//! A whole pipeline, part by part.

use super::show::grouped;
use super::{DescribeRequest, Description, describe, describe_config, read_config};
use crate::pipeline::pipeline_folder;
use anyhow::{Result, anyhow};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_core::Error;
use heldout_weights::{Part, PipelineIndex, is_pipeline, presets};
use serde::Serialize;
use std::path::Path;

/// What was asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Described {
    /// A network, an autoencoder or a ControlNet.
    Model(Box<Description>),
    /// A pipeline.
    Pipeline(PipelineDescription),
}

/// What a pipeline is made of.
#[derive(Debug, Serialize)]
pub struct PipelineDescription {
    /// As it was asked for.
    pub model: String,
    /// Its class in diffusers.
    pub class: String,
    /// Numbers in all parts that are described.
    pub parameters: u64,
    /// By name.
    pub parts: Vec<PartDescription>,
}

/// One part.
#[derive(Debug, Serialize)]
pub struct PartDescription {
    /// As `unet`.
    pub name: String,
    /// Its class in diffusers or transformers.
    pub class: String,
    /// Absent for what is no network, autoencoder or ControlNet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<Description>,
    /// Why it is absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description_absent: Option<String>,
}

/// Describes a model or a pipeline: a preset, a folder or file, or a name on the hub.
///
/// # Errors
/// As [`describe`]; a part of a pipeline that is not there.
pub fn describe_any(request: &DescribeRequest<'_>) -> Result<Described> {
    let name = request.model;
    let is_name = !Path::new(name).exists() && name.contains('/') && !presets().iter().any(|p| p == name);
    let folder = if is_name { pipeline_folder(name, None, false)? } else { Path::new(name).to_owned() };
    if !is_pipeline(&folder) {
        let model = folder.to_string_lossy();
        let found = describe(&DescribeRequest { model: if is_name { &model } else { name }, ..*request })?;
        return Ok(Described::Model(Box::new(Description { model: name.to_owned(), ..found })));
    }
    if request.side.is_some() {
        let reason = "parts of a pipeline have sizes of their own: describe the folder of one part";
        return Err(anyhow!(Error::config("--size", reason)));
    }
    let index = PipelineIndex::read(&folder)?;
    let described = |(part, what): (&String, &Part)| -> Result<PartDescription> {
        let path = folder.join(part);
        let found = if what.library != "diffusers" {
            Err("is no network, autoencoder or ControlNet".to_owned())
        } else if index.part(&folder, part, &[&what.class])?.join("config.json").is_file() {
            of_part(request, part, &path).map_err(|e| format!("{e:#}"))
        } else {
            Err("has no config.json".to_owned())
        };
        let (description, description_absent) = match found {
            Ok(description) => (Some(description), None),
            Err(reason) => (None, Some(reason)),
        };
        let (name, class) = (part.clone(), what.class.clone());
        Ok(PartDescription { name, class, description, description_absent })
    };
    let parts = index.parts.iter().map(described).collect::<Result<Vec<_>>>()?;
    let parameters = parts.iter().filter_map(|p| p.description.as_ref()).map(|d| d.parameters).sum();
    Ok(Described::Pipeline(PipelineDescription {
        model: name.to_owned(),
        class: index.class,
        parameters,
        parts,
    }))
}

fn of_part(request: &DescribeRequest<'_>, part: &str, folder: &Path) -> Result<Description> {
    let request = DescribeRequest { model: part, receptive_field: Some(false), ..*request };
    describe_config(&request, &read_config(folder)?, None)
}

impl std::fmt::Display for Described {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let PipelineDescription { model: _, class, parameters, parts } = match self {
            Self::Model(description) => return description.fmt(f),
            Self::Pipeline(pipeline) => pipeline,
        };
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(["part", "class", "parameters"]);
        for part in parts {
            let absent = || part.description_absent.clone().unwrap_or_default();
            let size = part.description.as_ref().map_or_else(absent, |d| grouped(d.parameters));
            table.add_row([part.name.clone(), part.class.clone(), size]);
        }
        table.add_row([class.clone(), String::new(), grouped(*parameters)]);
        write!(f, "{table}")?;
        let described = parts.iter().filter_map(|part| Some((&part.name, part.description.as_ref()?)));
        for (name, description) in described {
            write!(f, "\n\n{name}\n{description}")?;
        }
        Ok(())
    }
}
