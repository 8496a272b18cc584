//! What a network, an autoencoder or a ControlNet is and what it costs, without holding it in memory.

mod field;
mod measure;
mod pipeline;
mod show;

pub(crate) use field::ReceptiveField;
pub use pipeline::{Described, PartDescription, PipelineDescription, describe_any};

use crate::sample::{arm_folder, trained};
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use field::measure_field;
use heldout_core::{Error, stream};
use heldout_vae::LatentScale;
use heldout_weights::{
    ComponentConfig, Example, Model, ModelConfig, OpenOptions, WeightFiles, preset, presets,
};
use measure::{Measured, measure};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use tch::Device;

/// What to describe.
#[derive(Debug)]
pub struct DescribeRequest<'a> {
    /// A preset; a model folder or file; an arm's folder; for [`describe_any`], a pipeline's folder too.
    pub model: &'a str,
    /// Side of the images; that of the configuration if absent.
    pub side: Option<i64>,
    /// Tokens of a context.
    pub tokens: i64,
    /// Images of a training step.
    pub batch_size: u64,
    /// Whether the effective receptive field is measured; by default where the model has weights of its own and fewer
    /// than a hundred million parameters.
    pub receptive_field: Option<bool>,
    /// Channels of an attention head, for layouts whose shapes do not tell.
    pub head_channels: Option<i64>,
}

/// What a network, an autoencoder or a ControlNet is and what it costs.
#[derive(Debug, Serialize)]
pub struct Description {
    /// As it was asked for.
    pub model: String,
    /// The fields of its configuration.
    pub architecture: serde_json::Map<String, serde_json::Value>,
    /// Numbers that a file of its weights holds.
    pub parameters: u64,
    /// Those of them that are trained.
    pub trainable_parameters: u64,
    /// The same by block, in the order of their names.
    pub blocks: Vec<Block>,
    /// Shape of one image, latent or clip.
    pub sample_shape: Vec<i64>,
    /// Multiply-adds of one forward pass on it: matrix products, convolutions and both products of attention.
    pub multiply_adds: u64,
    /// Of an autoencoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latent: Option<Latent>,
    /// Memory of a training step with Adam in f32.
    pub training_memory: TrainingMemory,
    /// How far the middle of the output sees; absent where it was not measured.
    pub effective_receptive_field: Option<ReceptiveField>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receptive_field_absent: Option<String>,
}

/// What an autoencoder makes of an image.
#[derive(Debug, Serialize)]
pub struct Latent {
    /// Shape of one latent.
    pub shape: Vec<i64>,
    /// What brings latents to about unit variance.
    pub scale: LatentScale,
    /// Multiply-adds of encoding.
    pub encode_multiply_adds: u64,
    /// Multiply-adds of decoding.
    pub decode_multiply_adds: u64,
}

/// One block.
#[derive(Debug, Serialize)]
pub struct Block {
    /// The start of its parameters' names.
    pub name: String,
    /// Numbers in it.
    pub parameters: u64,
}

/// Memory of a training step, in bytes: an estimate from the sizes of what layers make, without the workspace of kernels.
#[derive(Debug, Serialize)]
pub struct TrainingMemory {
    /// Images.
    pub batch_size: u64,
    /// Weights, gradients and Adam's two moments.
    pub weights: u64,
    /// What is kept for the backward pass.
    pub activations: u64,
    /// Both.
    pub total: u64,
}

/// Above this, a receptive field is measured only when asked for.
const FEW: u64 = 100_000_000;
/// Bytes of an f32.
const F32: u64 = 4;

/// What is described; a network that has weights of its own comes with them.
struct Found {
    config: ComponentConfig,
    open: Option<Model>,
}

fn find(request: &DescribeRequest<'_>) -> Result<Found> {
    let (name, path) = (request.model, Path::new(request.model));
    let alone = |config| Ok(Found { config, open: None });
    if presets().iter().any(|known| known == name) {
        return alone(preset(name)?);
    }
    if path.is_file() && path.extension().is_some_and(|e| e == "json") || only_config(path) {
        return alone(read_config(path)?);
    }
    if !path.exists() && !name.contains('/') {
        return Err(anyhow!(preset(name).err().unwrap_or(Error::config(name, "is not there"))));
    }
    let open = match arm_folder(path) {
        Ok(_) => trained(path, &WeightsChoice::default(), Device::Cpu)?,
        Err(_) => {
            let options = OpenOptions { head_channels: request.head_channels, ..OpenOptions::default() };
            let config = ComponentConfig::of(name, options)?;
            if request.receptive_field == Some(false) || !matches!(config, ComponentConfig::Network(_)) {
                return alone(config);
            }
            Model::open(name, Device::Cpu, options)?
        }
    };
    Ok(Found { config: ComponentConfig::Network(open.config.clone()), open: Some(open) })
}

/// A folder with a configuration and no weights.
fn only_config(path: &Path) -> bool {
    path.join("config.json").is_file() && WeightFiles::open(path, None).is_err()
}

fn read_config(path: &Path) -> Result<ComponentConfig> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let fields =
        serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("is no configuration: {e}")))?;
    Ok(ComponentConfig::from_json(&fields).map_err(|e| Error::file(&path, e.to_string()))?)
}

/// Describes it.
pub fn describe(request: &DescribeRequest<'_>) -> Result<Description> {
    if request.batch_size == 0 || request.tokens < 1 || request.side.is_some_and(|side| side < 1) {
        return Err(anyhow!(Error::config("--batch-size, --tokens, --size", "0: at least 1 is needed")));
    }
    let Found { config, open } = find(request)?;
    describe_config(request, &config, open)
}

/// Of a configuration, and of a network that is in memory.
fn describe_config(
    request: &DescribeRequest<'_>,
    config: &ComponentConfig,
    open: Option<Model>,
) -> Result<Description> {
    let example = config.example(1, request.side, request.tokens)?;
    check_sides(config, &example)?;
    let Measured { vars, cost, latent } = measure(config, &example)?;
    let trained: BTreeMap<String, u64> = sizes(&vars, true);
    let stored: BTreeMap<String, u64> = sizes(&vars, false);
    let trainable_parameters = trained.values().sum();
    let weights = 4 * F32 * trainable_parameters;
    let activations = F32 * cost.activations * request.batch_size;
    let wanted = request.receptive_field.unwrap_or(open.is_some() && trainable_parameters < FEW);
    let (field, absent) = match field_of(config, open, &example, wanted)? {
        Ok(field) => (Some(field), None),
        Err(reason) => (None, Some(reason.to_owned())),
    };
    Ok(Description {
        model: request.model.to_owned(),
        architecture: config.to_json()?,
        parameters: stored.values().sum(),
        trainable_parameters,
        blocks: blocks(&stored),
        sample_shape: example.sample[1..].to_vec(),
        multiply_adds: cost.multiply_adds,
        latent,
        training_memory: TrainingMemory {
            batch_size: request.batch_size,
            weights,
            activations,
            total: weights + activations,
        },
        effective_receptive_field: field,
        receptive_field_absent: absent,
    })
}

/// How far a network sees, at initialisation where it has no weights of its own; or why that is not measured.
fn field_of(
    config: &ComponentConfig,
    open: Option<Model>,
    example: &Example,
    wanted: bool,
) -> Result<Result<ReceptiveField, &'static str>> {
    let config = match config {
        ComponentConfig::Network(config) => config,
        _ => return Ok(Err("is measured of networks that denoise")),
    };
    if !wanted {
        return Ok(Err("--receptive-field measures it"));
    }
    let model = match open {
        Some(model) => model,
        None => {
            tch::manual_seed(stream(0, "initial weights", 0, 0) as i64);
            Model::fresh(config.clone(), Device::Cpu)?
        }
    };
    Ok(measure_field(model.backbone.as_ref(), example)
        .ok_or("the output does not depend on the input, as at initialisation"))
}

/// Of one image `[C, H, W]` through a network.
pub(crate) fn multiply_adds(model: &ModelConfig, image: [i64; 3]) -> Result<u64> {
    let mut example = model.example(1, Some(image[1]), 1)?;
    example.sample = [&[1], &image[..]].concat();
    let config = ComponentConfig::Network(model.clone());
    check_sides(&config, &example)?;
    Ok(measure(&config, &example)?.cost.multiply_adds)
}

fn check_sides(config: &ComponentConfig, example: &Example) -> Result<()> {
    if let [_, channels, height, width] = example.sample[..] {
        config.check_images(channels, height, width).map_err(|e| match e {
            Error::Config { reason, .. } => Error::config("--size", reason),
            other => other,
        })?;
    }
    Ok(())
}

fn sizes(vars: &tch::nn::VarStore, trained: bool) -> BTreeMap<String, u64> {
    let variables = vars.variables().into_iter();
    variables
        .filter(|(_, t)| !trained || t.requires_grad())
        .map(|(name, t)| (name, t.numel() as u64))
        .collect()
}

/// Up to the first number in a name, or its first part.
fn block_of(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let number = parts.iter().position(|part| part.parse::<u64>().is_ok()).filter(|at| *at == 1);
    parts[..number.map_or(1, |at| at + 1)].join(".")
}

fn blocks(stored: &BTreeMap<String, u64>) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (name, size) in stored {
        let name = block_of(name);
        match blocks.iter_mut().find(|block| block.name == name) {
            Some(block) => block.parameters += size,
            None => blocks.push(Block { name, parameters: *size }),
        }
    }
    let order = |name: &str| {
        let (stem, number) = name.split_once('.').unwrap_or((name, ""));
        (stem.to_owned(), number.parse::<u64>().unwrap_or(0))
    };
    blocks.sort_by_key(|block| order(&block.name));
    blocks
}
