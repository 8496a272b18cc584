//! Whole pipelines: folders as diffusers writes them, opened for sampling.

mod noise;
mod request;

pub use request::{ControlRequest, PipelineRequest, sample_pipeline};

use crate::texts::Texts;
use anyhow::Result;
use heldout_adapters::{LoraFile, LoraSet, Several, Weight};
use heldout_core::{Adapted, Adapter, Autoencoder, Backbone, Cond, Error, Preconditioned};
use heldout_samplers::DiffusersScheduler;
use heldout_vae::{TileSize, Tiled};
use heldout_weights::{
    AutoencoderConfig, AutoencoderModel, ControlNetModel, Model, OpenOptions, Parts, PipelineIndex,
    resolve_whole,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor, nn};

/// Schedulers' folder in a pipeline.
pub(crate) const SCHEDULER: &str = "scheduler";
/// Its file.
pub(crate) const SCHEDULER_FILE: &str = "scheduler_config.json";
const CONTROL_NET: &str = "controlnet";
/// The parts that are opened, of whatever class they are.
const PARTS: [&str; 7] = ["unet", "transformer", "vae", "text_encoder", "tokenizer", SCHEDULER, CONTROL_NET];
const UNETS: [&str; 2] = ["UNet2DModel", "UNet2DConditionModel"];
const DITS: [&str; 2] = ["DiTTransformer2DModel", "Transformer2DModel"];
const AUTOENCODERS: [&str; 3] = ["AutoencoderKL", "AutoencoderTiny", "VQModel"];
const TEXT_ENCODERS: [&str; 2] = ["CLIPTextModel", "CLIPTextModelWithProjection"];
const TOKENIZERS: [&str; 2] = ["CLIPTokenizer", "CLIPTokenizerFast"];

/// What a pipeline makes images from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Nothing.
    Nothing,
    /// A class.
    Class,
    /// A text.
    Text,
}

/// The pipelines of diffusers that are covered, with what they are told and their guidance where a user gives none.
const CLASSES: [(&str, Told, f64); 5] = [
    ("DDPMPipeline", Told::Nothing, 1.0),
    ("DDIMPipeline", Told::Nothing, 1.0),
    ("DiTPipeline", Told::Class, 4.0),
    ("StableDiffusionPipeline", Told::Text, 7.5),
    ("StableDiffusionControlNetPipeline", Told::Text, 7.5),
];

/// The folder of a pipeline or of a model by path or name on the hub, fetched if need be: its configurations, and its weights
/// if they are wanted.
///
/// # Errors
/// There is none, or the hub does not give it.
pub fn pipeline_folder(source: &str, variant: Option<&str>, weights: bool) -> Result<PathBuf> {
    Ok(resolve_whole(source, variant, Parts { names: &PARTS, weights })?)
}

/// A pipeline in memory.
#[derive(Debug)]
struct Pipeline {
    class: String,
    told: Told,
    guidance: f64,
    scheduler: DiffusersScheduler,
    model: Preconditioned,
    /// Channels and sides of what the network is made for.
    shape: [i64; 3],
    /// The classes that it knows; the null class is the one after them.
    classes: i64,
    labels: Vec<(i64, String)>,
    /// Channels of all hints together; 0 without a ControlNet.
    hint_channels: i64,
    autoencoder: Option<AutoencoderModel>,
    /// Of the tiles that images are decoded in, if they are.
    tiles: Option<TileSize>,
    texts: Option<Texts>,
    device: Device,
}

impl Pipeline {
    /// Opens every part.
    fn open(request: &PipelineRequest<'_>) -> Result<Self> {
        let PipelineRequest { folder, variant, device, .. } = *request;
        let index = PipelineIndex::read(folder)?;
        let known = CLASSES.iter().find(|(name, ..)| *name == index.class);
        let Some(&(_, told, guidance)) = known else {
            let names: Vec<&str> = CLASSES.iter().map(|(name, ..)| *name).collect();
            let reason =
                format!("_class_name: {} is not covered: only {} are", index.class, names.join(", "));
            return Err(Error::file(folder.join("model_index.json"), reason).into());
        };
        let scheduler = DiffusersScheduler::read(&folder.join(SCHEDULER).join(SCHEDULER_FILE))?;
        let (part, classes) = if told == Told::Class { ("transformer", &DITS) } else { ("unet", &UNETS) };
        let network = index.part(folder, part, classes)?;
        let options = OpenOptions { variant, ..OpenOptions::default() };
        let open = || Model::open(&network.to_string_lossy(), device, options);
        let Model { config, backbone, .. } = match request.lora {
            None => open()?,
            Some(lora) => with_lora(open, lora, part)?,
        };
        let &[_, channels, height, width] = config.example(1, None, 1)?.sample.as_slice() else {
            return Err(Error::file(network, "is no network of images").into());
        };
        let adapter = control_nets(request, &index, options)?;
        let hint_channels = adapter.as_ref().map_or(0, Adapter::hint_channels);
        let backbone: Box<dyn Backbone> = match adapter {
            None => backbone,
            Some(adapter) => Box::new(Adapted { backbone, adapter }),
        };
        let autoencoder = (told != Told::Nothing).then(|| -> Result<_> {
            let path = index.part(folder, "vae", &AUTOENCODERS)?;
            Ok(AutoencoderModel::open(&path.to_string_lossy(), device, options)?)
        });
        let autoencoder = autoencoder.transpose()?;
        let texts = (told == Told::Text).then(|| {
            let encoder = index.part(folder, "text_encoder", &TEXT_ENCODERS)?;
            // As transformers names its variants; a file is opened with the configuration beside it.
            let of_variant = |name: &str| encoder.join(format!("model.{name}.safetensors"));
            let encoder = variant.map_or_else(|| encoder.clone(), of_variant);
            Texts::open(&encoder, &index.part(folder, "tokenizer", &TOKENIZERS)?, device)
        });
        Ok(Self {
            class: index.class,
            told,
            guidance,
            model: Preconditioned {
                backbone,
                parameterization: Box::new(scheduler.prediction),
                schedule: Box::new(scheduler.schedule.build()?),
            },
            scheduler,
            shape: [channels, height, width],
            classes: config.classes(),
            labels: labels(index.fields.get("id2label")),
            hint_channels,
            tiles: tiles(request, autoencoder.as_ref())?,
            autoencoder,
            texts: texts.transpose()?,
            device,
        })
    }

    /// Which of texts and classes the pipeline needs, and was not given.
    fn check_prompts(&self, request: &PipelineRequest<'_>) -> Result<()> {
        let (prompts, classes, class) = (request.prompts, request.classes, &self.class);
        let fail = |field: &str, reason: String| Err(Error::config(field, reason).into());
        let clip = request.clip.is_some();
        match self.told {
            _ if clip && prompts.is_empty() => {
                fail("--clip", "needs --prompt: a text that the images are drawn to".to_owned())
            }
            Told::Nothing if !prompts.is_empty() && !clip => fail(
                "--prompt",
                format!("{}: a {class} is told nothing: leave it out, or give --clip", prompts[0]),
            ),
            Told::Nothing | Told::Text if !classes.is_empty() => {
                fail("--class", format!("{}: a {class} is told no class: leave it out", classes[0]))
            }
            Told::Class if classes.is_empty() => {
                fail("--class", format!("a {class} needs a class, as a number or a name"))
            }
            Told::Class if !prompts.is_empty() && !clip => fail(
                "--prompt",
                format!("{}: a {class} is told no text: leave it out, or give --clip", prompts[0]),
            ),
            Told::Class if ![0, 1, classes.len()].contains(&prompts.len()) => {
                let reason = format!(
                    "{} for {} classes: give one for each, or one for all",
                    prompts.len(),
                    classes.len()
                );
                fail("--prompt", reason)
            }
            Told::Text if prompts.is_empty() => fail("--prompt", format!("a {class} needs a text")),
            _ => Ok(()),
        }
    }

    /// Pixels of a side for each place of what is sampled.
    fn factor(&self) -> Result<i64> {
        let Some(autoencoder) = &self.autoencoder else { return Ok(1) };
        Ok(autoencoder.config.factor()?)
    }

    /// The shape of what is sampled for images of `size`, height and width; of those that the network was made for if
    /// absent.
    fn sampled(&self, size: Option<[i64; 2]>) -> Result<[i64; 3]> {
        let Some(size) = size else { return Ok(self.shape) };
        let factor = self.factor()?;
        if let Some(side) = size.into_iter().find(|side| *side < factor || side % factor != 0) {
            let reason = format!("{side}: sides are multiples of {factor} for this pipeline");
            return Err(Error::config("--size", reason).into());
        }
        Ok([self.shape[0], size[0] / factor, size[1] / factor])
    }

    /// Images `[B, C, H, W]` in `[-1, 1]` of what was sampled.
    fn decoded(&self, sampled: Tensor) -> Result<Tensor> {
        let Some(autoencoder) = &self.autoencoder else { return Ok(sampled.clamp(-1.0, 1.0)) };
        let network = autoencoder.network.clone();
        let images = match self.tiles {
            Some(size) => tch::no_grad(|| Ok::<_, Error>(Tiled::new(network, size)?.decode(&sampled)))?,
            None => tch::no_grad(|| network.decode(&sampled)),
        };
        Ok(images.clamp(-1.0, 1.0))
    }

    /// The class that a user names, by its number or by one of its names.
    fn class(&self, name: &str) -> Result<i64> {
        let wanted = name.trim();
        let by_name = || {
            let is_it = |names: &str| names.split(',').any(|n| n.trim().eq_ignore_ascii_case(wanted));
            self.labels.iter().find(|(_, names)| is_it(names)).map(|(id, _)| *id)
        };
        match wanted.parse::<i64>().ok().or_else(by_name) {
            Some(class) if (0..self.classes).contains(&class) => Ok(class),
            _ => {
                let last = self.classes - 1;
                let reason = format!("{name}: is no class of this model, which knows 0 to {last} by number");
                Err(Error::config("--class", reason).into())
            }
        }
    }

    /// Conditions of one row: of each prompt, and of what stands for none.
    fn conditions(&self, request: &PipelineRequest<'_>) -> Result<(Vec<Cond>, Cond)> {
        let class = |id| Cond::of_labels(Tensor::from_slice(&[id]).to_device(self.device));
        match (&self.texts, self.told) {
            (Some(texts), _) => {
                let prompts = texts.conditions("--prompt", request.prompts)?;
                let negative = [request.negative.to_owned()];
                Ok((prompts, texts.conditions("--negative", &negative)?.remove(0)))
            }
            (None, Told::Class) => {
                let each = request.classes.iter().map(|name| Ok(class(self.class(name)?)));
                Ok((each.collect::<Result<_>>()?, class(self.classes)))
            }
            (None, _) => Ok((vec![Cond::default()], Cond::default())),
        }
    }

    /// The images to follow, side by side, `[1, C, H, W]` in `[0, 1]`.
    fn hint(&self, request: &PipelineRequest<'_>, sampled: [i64; 3]) -> Result<Option<Tensor>> {
        if request.control.is_empty() {
            return Ok(None);
        }
        let factor = self.factor()?;
        let (height, width) = (sampled[1] * factor, sampled[2] * factor);
        let read = |control: &ControlRequest| -> Result<Tensor> {
            let image = hint_image(&control.image)?;
            let size = image.size();
            if size[1..] != [height, width] {
                let reason = format!(
                    "is {}x{}, where the images are {width}x{height}: resize it, or set --size",
                    size[2], size[1]
                );
                return Err(Error::file(&control.image, reason).into());
            }
            Ok(image)
        };
        let all = request.control.iter().map(read).collect::<Result<Vec<_>>>()?;
        let hint = Tensor::cat(&all, 0).unsqueeze(0).to_device(self.device);
        if hint.size()[1] != self.hint_channels {
            let reason = format!(
                "{} images of 3 channels, where the ControlNets look at {} in all",
                all.len(),
                self.hint_channels
            );
            return Err(Error::config("--control", reason).into());
        }
        Ok(Some(hint))
    }
}

/// The tiles that the user asks for: those of the autoencoder.
fn tiles(request: &PipelineRequest<'_>, autoencoder: Option<&AutoencoderModel>) -> Result<Option<TileSize>> {
    if !request.tiled {
        return Ok(None);
    }
    match autoencoder.map(|autoencoder| &autoencoder.config) {
        Some(AutoencoderConfig::AutoencoderKL(config)) => Ok(Some(config.tile_size())),
        _ => {
            let reason = "needs a pipeline with an AutoencoderKL: leave it out";
            Err(Error::config("--tiled", reason).into())
        }
    }
}

/// An image file, `[3, H, W]` in `[0, 1]`.
fn hint_image(path: &Path) -> Result<Tensor> {
    let image = image::open(path).map_err(|e| Error::file(path, format!("is no image: {e}")))?.to_rgb8();
    let (width, height) = image.dimensions();
    let pixels = Tensor::from_slice(image.as_raw()).view([i64::from(height), i64::from(width), 3]);
    Ok(pixels.permute([2, 0, 1]).to_kind(Kind::Float) / 255.0)
}

/// Names of classes, by their numbers.
fn labels(id2label: Option<&Value>) -> Vec<(i64, String)> {
    let entries = id2label.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(id, names)| Some((id.parse().ok()?, names.as_str()?.to_owned()))).collect()
}

/// The network with a LoRA merged into its weights.
fn with_lora(
    open: impl FnOnce() -> heldout_core::Result<Model>,
    (path, strength): (&Path, f64),
    component: &str,
) -> Result<Model> {
    let (model, sites) = heldout_nn::adaptable(open);
    let model = model?;
    let mut loras = LoraSet::new(sites);
    let vars = nn::VarStore::new(model.vars.device());
    loras.load("lora", &vars.root(), &LoraFile::open(path)?, component)?;
    loras.set_strength("lora", strength)?;
    tch::no_grad(|| loras.merge());
    Ok(model)
}

/// The nets of the images to follow; that of the pipeline where none is named.
fn control_nets(
    request: &PipelineRequest<'_>,
    index: &PipelineIndex,
    options: OpenOptions<'_>,
) -> Result<Option<Several>> {
    if request.control.is_empty() {
        if index.parts.contains_key(CONTROL_NET) {
            let reason = format!("a {} needs an image to follow", index.class);
            return Err(Error::config("--control", reason).into());
        }
        return Ok(None);
    }
    let open = |control: &ControlRequest| -> Result<(Box<dyn Adapter>, Weight)> {
        let folder: PathBuf = match &control.net {
            Some(folder) => folder.clone(),
            None if index.parts.contains_key(CONTROL_NET) => {
                index.part(request.folder, CONTROL_NET, &["ControlNetModel"])?
            }
            None => {
                let reason = format!("a {} has no ControlNet of its own: give its folder", index.class);
                return Err(Error::config("--control-net", reason).into());
            }
        };
        let net = ControlNetModel::open(&folder.to_string_lossy(), request.device, options)?.network;
        let net: Box<dyn Adapter> =
            if request.guess { Box::new(heldout_adapters::ScaledSites::guess(net)) } else { Box::new(net) };
        Ok((net, Weight::Fixed(control.scale)))
    };
    Ok(Some(Several(request.control.iter().map(open).collect::<Result<_>>()?)))
}
