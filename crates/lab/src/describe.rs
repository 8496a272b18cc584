//! What a network is and what it costs, without holding it in memory.

use crate::sample::{arm_folder, trained};
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_core::{Backbone, Cond, Error, Input, stream};
use heldout_diagnosis::receptive_field;
use heldout_nn::{Cost, count, meta, without_storage};
use heldout_weights::{Example, Model, ModelConfig, OpenOptions, WeightFiles, preset, presets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind, Tensor, nn};

/// What to describe.
#[derive(Debug)]
pub struct DescribeRequest<'a> {
    /// A preset; a model folder or file; an arm's folder.
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

/// What a network is and what it costs.
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
    /// Memory of a training step with Adam in f32.
    pub training_memory: TrainingMemory,
    /// How far the middle of the output sees; absent where it was not measured.
    pub effective_receptive_field: Option<ReceptiveField>,
    /// Why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receptive_field_absent: Option<String>,
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

/// The gradient of the middle of the output with respect to the input; Luo et al. 2016, section 2.
#[derive(Debug, Serialize)]
pub struct ReceptiveField {
    /// Root mean square distance from the middle, in pixels, weighted by the gradient's root mean square.
    pub radius: f64,
    /// Side of a square of as many pixels as have more than 4.55 % of the largest gradient, as in the paper.
    pub side: f64,
    /// Share of the image that those are.
    pub share: f64,
    /// Side of the image.
    pub image_side: i64,
    /// Inputs of unit Gaussian noise over which the squared gradient was averaged.
    pub samples: i64,
}

/// Above this, a receptive field is measured only when asked for.
const FEW: u64 = 100_000_000;
/// Inputs over which it is averaged.
const SAMPLES: i64 = 8;
/// Bytes of an f32.
const F32: u64 = 4;

/// A network, and whether it has weights of its own.
struct Found {
    config: ModelConfig,
    open: Option<Model>,
}

fn find(request: &DescribeRequest<'_>) -> Result<Found> {
    let (name, path) = (request.model, Path::new(request.model));
    if presets().iter().any(|known| known == name) {
        return Ok(Found { config: preset(name)?, open: None });
    }
    if path.is_file() && path.extension().is_some_and(|e| e == "json") || only_config(path) {
        return Ok(Found { config: read_config(path)?, open: None });
    }
    if !path.exists() && !name.contains('/') {
        return Err(anyhow!(preset(name).err().unwrap_or(Error::config(name, "is not there"))));
    }
    let open = match arm_folder(path) {
        Ok(_) => trained(path, &WeightsChoice::default(), Device::Cpu)?,
        Err(_) => {
            let options = OpenOptions { head_channels: request.head_channels, ..OpenOptions::default() };
            if request.receptive_field == Some(false) {
                let config = Model::config_of(name, options)?;
                return Ok(Found { config, open: None });
            }
            Model::open(name, Device::Cpu, options)?
        }
    };
    Ok(Found { config: open.config.clone(), open: Some(open) })
}

/// A folder with a configuration and no weights.
fn only_config(path: &Path) -> bool {
    path.join("config.json").is_file() && WeightFiles::open(path, None).is_err()
}

fn read_config(path: &Path) -> Result<ModelConfig> {
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let text = std::fs::read(&path).map_err(Error::io(&path))?;
    let fields =
        serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("is no configuration: {e}")))?;
    Ok(ModelConfig::from_json(&fields).map_err(|e| Error::file(&path, e.to_string()))?)
}

/// Describes it.
pub fn describe(request: &DescribeRequest<'_>) -> Result<Description> {
    if request.batch_size == 0 || request.tokens < 1 || request.side.is_some_and(|side| side < 1) {
        return Err(anyhow!(Error::config("--batch-size, --tokens, --size", "0: at least 1 is needed")));
    }
    let Found { config, open } = find(request)?;
    let example = config.example(1, request.side, request.tokens)?;
    check_sides(&config, &example)?;
    let (vars, cost) = measure(&config, &example)?;
    let trained: BTreeMap<String, u64> = sizes(&vars, true);
    let stored: BTreeMap<String, u64> = sizes(&vars, false);
    let trainable_parameters = trained.values().sum();
    let weights = 4 * F32 * trainable_parameters;
    let activations = F32 * cost.activations * request.batch_size;
    let wanted = request.receptive_field.unwrap_or(open.is_some() && trainable_parameters < FEW);
    let (field, absent) = match (wanted, &config) {
        (_, ModelConfig::SpaceTimeDit(_)) => (None, Some("is measured on images only".to_owned())),
        (false, _) => (None, Some("--receptive-field measures it".to_owned())),
        (true, _) => {
            let model = match open {
                Some(model) => model,
                None => {
                    tch::manual_seed(stream(0, "initial weights", 0, 0) as i64);
                    Model::fresh(config.clone(), Device::Cpu)?
                }
            };
            match measure_field(model.backbone.as_ref(), &example) {
                Some(field) => (Some(field), None),
                None => {
                    (None, Some("the output does not depend on the input, as at initialisation".to_owned()))
                }
            }
        }
    };
    Ok(Description {
        model: request.model.to_owned(),
        architecture: config.to_json()?,
        parameters: stored.values().sum(),
        trainable_parameters,
        blocks: blocks(&stored),
        sample_shape: example.sample[1..].to_vec(),
        multiply_adds: cost.multiply_adds,
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

fn check_sides(config: &ModelConfig, example: &Example) -> Result<()> {
    if let [_, channels, height, width] = example.sample[..] {
        config.check_images(channels, height, width).map_err(|e| match e {
            Error::Config { reason, .. } => Error::config("--size", reason),
            other => other,
        })?;
    }
    Ok(())
}

/// Builds the network without storage and runs one image through it.
fn measure(config: &ModelConfig, example: &Example) -> Result<(nn::VarStore, Cost)> {
    let vars = nn::VarStore::new(Device::Cpu);
    let backbone = without_storage(|| config.build(&vars.root()))?;
    let x = meta(&example.sample, Kind::Float);
    let level = meta(&example.sample[..1], Kind::Float);
    let cond = condition(example, |_, dims| meta(dims, Kind::Float));
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    let (_, cost) = tch::no_grad(|| count(|| backbone.forward(input, &mut ())));
    Ok((vars, cost))
}

fn condition(example: &Example, make: impl Fn(&str, &[i64]) -> Tensor) -> Cond {
    Cond::from_fields(|name| {
        let (_, dims) = example.conditions.iter().find(|(needed, _)| *needed == name)?;
        Some(make(name, dims))
    })
}

fn sizes(vars: &nn::VarStore, trained: bool) -> BTreeMap<String, u64> {
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

/// `None` where the output does not depend on the input.
fn measure_field(backbone: &dyn Backbone, example: &Example) -> Option<ReceptiveField> {
    let [_, channels, height, width] = example.sample[..] else { return None };
    tch::manual_seed(stream(0, "receptive field", 0, 0) as i64);
    let f32 = (Kind::Float, Device::Cpu);
    let x = Tensor::randn([SAMPLES, channels, height, width], f32);
    let noise_level = Tensor::full([SAMPLES], 500.0, f32);
    let cond = condition(example, |name, dims| {
        let dims = [&[SAMPLES], &dims[1..]].concat();
        match name {
            "class_labels" if dims.len() == 1 => Tensor::zeros(dims, (Kind::Int64, Device::Cpu)),
            _ => Tensor::randn(dims, f32),
        }
    });
    let input = Input { x: &x, noise_level: &noise_level, cond: &cond, train: false };
    let field = receptive_field(backbone, input)?;
    let size = field.energy.sqrt();
    let seen = size.gt(size.max().double_value(&[]) * 0.0455).sum(Kind::Double).double_value(&[]);
    Some(ReceptiveField {
        radius: field.radius(0.5),
        side: seen.sqrt(),
        share: seen / (height * width) as f64,
        image_side: height,
        samples: SAMPLES,
    })
}

/// With thousands separated.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let class = self.architecture.get("_class_name").and_then(|c| c.as_str()).unwrap_or_default();
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.add_row(["architecture".to_owned(), class.to_owned()]);
        table.add_row(["parameters".to_owned(), grouped(self.parameters)]);
        table.add_row(["trainable".to_owned(), grouped(self.trainable_parameters)]);
        table.add_row(["one sample".to_owned(), format!("{:?}", self.sample_shape)]);
        table.add_row(["multiply-adds".to_owned(), format!("{:.4} G", self.multiply_adds as f64 / 1e9)]);
        let memory = &self.training_memory;
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let text = format!(
            "about {:.3} GiB at {}: weights and Adam {:.3}, activations {:.3}",
            gib(memory.total),
            memory.batch_size,
            gib(memory.weights),
            gib(memory.activations)
        );
        table.add_row(["training memory".to_owned(), text]);
        let field = match &self.effective_receptive_field {
            Some(field) => format!(
                "radius {:.1} of {} pixels; {:.1} x {:.1} above 4.55 % of the largest gradient",
                field.radius, field.image_side, field.side, field.side
            ),
            None => self.receptive_field_absent.clone().unwrap_or_default(),
        };
        table.add_row(["receptive field".to_owned(), field]);
        let mut blocks = Table::new();
        blocks.load_preset(UTF8_FULL_CONDENSED).set_header(["block", "parameters"]);
        for block in &self.blocks {
            blocks.add_row([block.name.clone(), grouped(block.parameters)]);
        }
        write!(f, "{table}\n{blocks}")
    }
}
