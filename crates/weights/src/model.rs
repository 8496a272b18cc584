//! Models by their configuration: built, loaded and saved.

use crate::fields::{at, old_transformer, read, without_class};
use crate::{
    Layout, MAX_SHARD_BYTES, Piece, WeightFiles, adm, diffusers, dit, load_into, resolve, save_folder,
};
use heldout_core::{Backbone, Error, Result};
use heldout_dit::{
    DiTTransformer2DModelConfig, Dit, DitConfig, EmbedderPlace, SpaceTimeConfig, StackedFrames,
};
use heldout_unet::diffusers::{UNet2DConditionModelConfig, UNet2DModelConfig};
use heldout_unet::{UNet, UNetConfig};
use heldout_unetpp::{UNetPlusPlus, UNetPlusPlusConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::path::Path;
use tch::{Device, Kind, Tensor, nn};

/// Every network that can be built, as a recipe names it (`kind`) and as the `config.json` of a folder does
/// (`_class_name`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ModelConfig {
    /// A UNet.
    Unet(UNetConfig),
    /// A nested UNet.
    Unetpp(UNetPlusPlusConfig),
    /// A diffusion transformer.
    Dit(DitConfig),
    /// A diffusion transformer for clips `[B, C T, H, W]`, whose frames are channels.
    SpaceTimeDit(SpaceTimeConfig),
    /// diffusers' `UNet2DModel`.
    #[serde(rename = "UNet2DModel")]
    UNet2DModel(Box<UNet2DModelConfig>),
    /// diffusers' `UNet2DConditionModel`.
    #[serde(rename = "UNet2DConditionModel")]
    UNet2DConditionModel(Box<UNet2DConditionModelConfig>),
    /// diffusers' `DiTTransformer2DModel`.
    #[serde(rename = "DiTTransformer2DModel")]
    DiTTransformer2DModel(DiTTransformer2DModelConfig),
}

/// The shapes of a batch that a network takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Example {
    /// Of the images or latents, or of clips with their frames as channels.
    pub sample: Vec<i64>,
    /// Of the conditions, by their names in [`heldout_core::Cond::fields`].
    pub conditions: Vec<(&'static str, Vec<i64>)>,
}

/// What a folder's `config.json` calls our own networks, and the recipe's kind of each.
const OWN_CLASSES: [(&str, &str); 4] = [
    ("HeldoutUNet", "unet"),
    ("HeldoutUNetPlusPlus", "unetpp"),
    ("HeldoutDiT", "dit"),
    ("HeldoutSpaceTimeDiT", "space_time_dit"),
];
/// Those of diffusers that are read.
const CLASSES: [&str; 3] = ["UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel"];
/// The class that diffusers' earlier versions saved its transformers under.
const OLD_DIT: &str = "Transformer2DModel";

/// What a `config.json` may call a network.
pub(crate) fn known_classes() -> Vec<&'static str> {
    CLASSES.into_iter().chain([OLD_DIT]).chain(OWN_CLASSES.map(|(name, _)| name)).collect()
}

impl ModelConfig {
    /// From the fields of a `config.json`; those that start with `_` tell of the file, not of the network.
    pub fn from_json(config: &Map<String, Value>) -> Result<Self> {
        let class = config.get("_class_name").and_then(Value::as_str).unwrap_or_default();
        let own = OWN_CLASSES.iter().find(|(name, _)| *name == class).map(|(_, kind)| *kind);
        let kind = match own.or_else(|| CLASSES.into_iter().find(|name| *name == class)) {
            Some(kind) => kind,
            None if class == OLD_DIT => CLASSES[2],
            None => {
                let reason = format!("`{class}` is not read: one of {}", known_classes().join(", "));
                return Err(Error::config("_class_name", reason));
            }
        };
        let mut fields = config.clone();
        fields.retain(|name, _| !name.starts_with('_'));
        if class == OLD_DIT {
            old_transformer(&mut fields)?;
        }
        let fields = Value::Object(fields);
        Ok(match kind {
            "UNet2DModel" => Self::UNet2DModel(read(fields)?),
            "UNet2DConditionModel" => Self::UNet2DConditionModel(read(fields)?),
            "DiTTransformer2DModel" => Self::DiTTransformer2DModel(read(fields)?),
            "unet" => Self::Unet(read(fields)?),
            "unetpp" => Self::Unetpp(read(fields)?),
            "dit" => Self::Dit(read(fields)?),
            _ => Self::SpaceTimeDit(read(fields)?),
        })
    }

    /// The fields of a `config.json`.
    pub fn to_json(&self) -> Result<Map<String, Value>> {
        let value = serde_json::to_value(self).map_err(|e| Error::config("config", e.to_string()))?;
        let Value::Object(mut fields) = value else { unreachable!("a configuration has fields") };
        let kind = fields.remove("kind").unwrap_or_default();
        let own = OWN_CLASSES.iter().find(|(_, own)| *own == kind).map(|(name, _)| Value::from(*name));
        let mut config = Map::from_iter([("_class_name".to_owned(), own.unwrap_or(kind))]);
        config.append(&mut fields);
        Ok(config)
    }

    /// The same network as a class of diffusers; an error names what diffusers does not have.
    pub fn to_diffusers(&self) -> Result<Self> {
        Ok(match self {
            Self::Unet(config) => Self::UNet2DModel(Box::new(config.to_diffusers()?)),
            Self::Dit(config) => Self::DiTTransformer2DModel(DiTTransformer2DModelConfig::of(config)?),
            Self::Unetpp(_) | Self::SpaceTimeDit(_) => {
                let reason = "unetpp and space_time_dit have no counterpart in diffusers";
                return Err(Error::config("kind", reason));
            }
            other => other.clone(),
        })
    }

    /// Builds the network with fresh weights under `vs`.
    pub fn build(&self, vs: &nn::Path<'_>) -> Result<Box<dyn Backbone>> {
        Ok(match self {
            Self::Unet(config) => Box::new(UNet::new(vs, config)?),
            Self::Unetpp(config) => Box::new(UNetPlusPlus::new(vs, config)?),
            Self::UNet2DModel(config) => Box::new(UNet::planned(vs, config.plan()?)?),
            Self::UNet2DConditionModel(config) => Box::new(UNet::planned(vs, config.plan()?)?),
            Self::Dit(config) => Box::new(Dit::new(vs, config)?),
            Self::DiTTransformer2DModel(config) => Box::new(Dit::new(vs, &config.config()?)?),
            Self::SpaceTimeDit(config) => Box::new(StackedFrames::new(vs, config)?),
        })
    }

    /// Whether images of this shape fit.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        match self {
            Self::Unet(config) => config.check_images(channels, height, width),
            Self::Unetpp(config) => config.check_images(channels, height, width),
            Self::UNet2DModel(config) => config.plan()?.check_images(channels, height, width),
            Self::UNet2DConditionModel(config) => config.plan()?.check_images(channels, height, width),
            Self::Dit(config) => config.check_images(channels, height, width),
            Self::DiTTransformer2DModel(config) => config.config()?.check_images(channels, height, width),
            Self::SpaceTimeDit(config) => config.check_images(channels, height, width),
        }
    }

    /// Channels of the output.
    pub fn out_channels(&self) -> i64 {
        match self {
            Self::Unet(config) => config.out_channels,
            Self::Unetpp(config) => config.unet.out_channels,
            Self::UNet2DModel(config) => config.out_channels,
            Self::UNet2DConditionModel(config) => config.out_channels,
            Self::Dit(config) => config.out_channels,
            Self::DiTTransformer2DModel(config) => config.out_channels.unwrap_or(config.in_channels),
            Self::SpaceTimeDit(config) => config.frames * config.image.out_channels,
        }
    }

    /// How many noise levels it can look up, if it sees them through a table.
    pub fn levels(&self) -> Result<Option<i64>> {
        Ok(match self {
            Self::Unet(config) => config.time_embedding.levels(),
            Self::Unetpp(config) => config.unet.time_embedding.levels(),
            Self::UNet2DModel(config) => config.plan()?.conditioning.time.levels(),
            Self::UNet2DConditionModel(config) => config.plan()?.conditioning.time.levels(),
            Self::Dit(config) => config.time_embedding.levels(),
            Self::DiTTransformer2DModel(config) => config.config()?.time_embedding.levels(),
            Self::SpaceTimeDit(config) => config.image.time_embedding.levels(),
        })
    }

    /// How many classes it knows, in a UNet with the null class; 0 where it is told of none.
    pub fn classes(&self) -> i64 {
        match self {
            Self::Unet(config) => config.num_class_embeds.unwrap_or(0),
            Self::Unetpp(config) => config.unet.num_class_embeds.unwrap_or(0),
            Self::UNet2DModel(config) => config.num_class_embeds.unwrap_or(0),
            Self::UNet2DConditionModel(config) => config.num_class_embeds.unwrap_or(0),
            Self::Dit(config) => config.num_classes,
            Self::DiTTransformer2DModel(config) => config.num_embeds_ada_norm,
            Self::SpaceTimeDit(config) => config.image.num_classes,
        }
    }

    /// The shape of a batch that the network was made for, and the conditions that it needs, with `tokens` tokens of a
    /// context; `side` is the side of the images where the configuration does not say.
    pub fn example(&self, batch: i64, side: Option<i64>, tokens: i64) -> Result<Example> {
        let labels = |n: i64| if n > 0 { vec![("class_labels", vec![batch])] } else { Vec::new() };
        let of_dit = |dit: &DitConfig| {
            let side = side.unwrap_or(dit.sample_size);
            Example { sample: vec![batch, dit.in_channels, side, side], conditions: labels(dit.num_classes) }
        };
        let of_unet = |plan: &heldout_unet::plan::Plan, size: &Value| {
            let given = match size {
                Value::Array(sides) => sides.first().and_then(Value::as_i64),
                other => other.as_i64(),
            };
            let side = side.or(given).unwrap_or(1 << (plan.halvings() + 3));
            let hinted = plan.image_channels();
            Example {
                sample: vec![batch, hinted, side, side],
                conditions: plan.conditions(batch, tokens, [side; 2]),
            }
        };
        Ok(match self {
            Self::Unet(config) => of_unet(&config.plan()?, &Value::Null),
            Self::Unetpp(config) => of_unet(&config.unet.plan()?, &Value::Null),
            Self::UNet2DModel(config) => of_unet(&config.plan()?, &config.sample_size),
            Self::UNet2DConditionModel(config) => of_unet(&config.plan()?, &config.sample_size),
            Self::Dit(config) => of_dit(config),
            Self::DiTTransformer2DModel(config) => of_dit(&config.config()?),
            Self::SpaceTimeDit(config) => {
                let mut example = of_dit(&config.image);
                example.sample[1] *= config.frames;
                example
            }
        })
    }

    /// Which field cannot be honoured, and why.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Unet(config) => config.check(),
            Self::Unetpp(config) => config.check(),
            Self::UNet2DModel(config) => config.plan()?.check(),
            Self::UNet2DConditionModel(config) => config.plan()?.check(),
            Self::Dit(config) => config.check(),
            Self::DiTTransformer2DModel(config) => config.config().map(|_| ()),
            Self::SpaceTimeDit(config) => config.check(),
        }
    }
}

/// How a model is opened.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions<'a> {
    /// As in `fp16`: which of several precisions of a folder.
    pub variant: Option<&'a str>,
    /// Kind of the weights in memory; f32 if absent.
    pub kind: Option<Kind>,
    /// Channels of an attention head, for layouts whose shapes do not tell.
    pub head_channels: Option<i64>,
}

/// A network with its weights.
#[derive(Debug)]
pub struct Model {
    /// What it is.
    pub config: ModelConfig,
    /// Its weights, by name.
    pub vars: nn::VarStore,
    /// The network, which shares them.
    pub backbone: Box<dyn Backbone>,
}

impl Model {
    /// With fresh weights, from libtorch's generator.
    pub fn fresh(config: ModelConfig, device: Device) -> Result<Self> {
        let vars = nn::VarStore::new(device);
        let backbone = config.build(&vars.root())?;
        Ok(Self { config, vars, backbone })
    }

    /// Opens a folder of diffusers or of ours, a safetensors file of diffusers', the original DiT's or ADM's names, or a
    /// model of the hub by its name.
    ///
    /// # Errors
    /// Whatever the files lack; all missing, unexpected and misshapen tensors in one message.
    pub fn open(source: &str, device: Device, options: OpenOptions<'_>) -> Result<Self> {
        let path = resolve(source, options.variant)?;
        let files = WeightFiles::open(&path, options.variant)?;
        let (config, pieces) = plan(&files, options.head_channels).map_err(|e| at(&path, e))?;
        let mut vars = nn::VarStore::new(device);
        let backbone = config.build(&vars.root()).map_err(|e| at(&path, e))?;
        load(&mut vars, &files, &pieces, options)?;
        Ok(Self { config, vars, backbone })
    }

    /// The network of a model's files; its weights are not read.
    pub fn config_of(source: &str, options: OpenOptions<'_>) -> Result<ModelConfig> {
        let path = resolve(source, options.variant)?;
        let files = WeightFiles::open(&path, options.variant)?;
        plan(&files, options.head_channels).map(|(config, _)| config).map_err(|e| at(&path, e))
    }

    /// The kind that most numbers of a model's files have; nothing is built.
    pub fn stored_kind(source: &str, variant: Option<&str>) -> Result<Option<Kind>> {
        Ok(WeightFiles::open(&resolve(source, variant)?, variant)?.kind())
    }

    /// Every tensor that is stored, trained or not, by name.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        named(&self.vars)
    }

    /// Writes a folder: as the class of diffusers that the network is, if there is one, otherwise as a class of ours.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let tensors = self.tensors();
        let config = self.config.to_diffusers().unwrap_or_else(|_| self.config.clone());
        let is_shared =
            matches!(&self.config, ModelConfig::Dit(dit) if dit.embedders == EmbedderPlace::Shared);
        let repeated = is_shared && matches!(config, ModelConfig::DiTTransformer2DModel(_));
        let tensors = if repeated { dit::repeat_embedders(&tensors) } else { tensors };
        save_folder(folder, &config.to_json()?, &tensors, MAX_SHARD_BYTES)
    }
}

/// Every tensor that is stored, trained or not, by name.
pub(crate) fn named(vars: &nn::VarStore) -> Vec<(String, Tensor)> {
    let mut named: Vec<_> = vars.variables().into_iter().collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b)); // `variables` is a HashMap: no order of its own.
    named
}

/// Fills the variables of a model, in the kind that is asked for.
fn load(
    vars: &mut nn::VarStore,
    files: &WeightFiles,
    pieces: &[Piece],
    options: OpenOptions<'_>,
) -> Result<()> {
    match options.kind.unwrap_or(Kind::Float) {
        Kind::Float => {}
        kind => vars.set_kind(kind),
    }
    load_into(&named(vars), files, pieces)
}

/// The same from files in diffusers' names, of any of its versions.
pub(crate) fn load_current(
    vars: &mut nn::VarStore,
    files: &WeightFiles,
    options: OpenOptions<'_>,
) -> Result<()> {
    load(vars, files, &diffusers::current_names(&files.shapes()), options)
}

/// The network of these files, and where each of its tensors comes from.
fn plan(files: &WeightFiles, head_channels: Option<i64>) -> Result<(ModelConfig, Vec<Piece>)> {
    let shapes = files.shapes();
    match Layout::of(&shapes) {
        Layout::Diffusers => {
            Ok((ModelConfig::from_json(files.config()?)?, diffusers::current_names(&shapes)))
        }
        Layout::OriginalDit => {
            let width = shapes.get("x_embedder.proj.weight").and_then(|s| s.first()).copied().unwrap_or(0);
            let fields = dit::config(&shapes, head_channels.map(|c| width / c.max(1)))?;
            let class: DiTTransformer2DModelConfig = read(without_class(fields))?;
            let config = class.config()?.original();
            if shapes.contains_key("pos_embed") {
                dit::check_positions(files)?;
            }
            Ok((ModelConfig::Dit(config), dit::from_original(&shapes, dit::Embedders::Shared)?))
        }
        Layout::OriginalAdm => {
            let channels = head_channels.unwrap_or(64);
            let heads = adm::Heads { channels, order: adm::HeadOrder::Interleaved };
            let fields = adm::config(&shapes, channels, None)?;
            let config = ModelConfig::UNet2DModel(read(without_class(fields))?);
            Ok((config, adm::from_original(&shapes, heads)?))
        }
    }
}
