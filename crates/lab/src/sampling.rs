//! The command `sample`: from models trained here, and from pipelines.

use crate::args::{Weights, device, device_here};
use anyhow::Result;
use clap::Args;
use heldout_core::Error;
use heldout_lab::{
    ClipRequest, ControlRequest, PipelineRequest, SampleRequest, WeightsChoice, pipeline_folder, sample,
    sample_pipeline,
};
use heldout_weights::hub::HubName;
use heldout_weights::is_pipeline;
use std::path::{Path, PathBuf};
use tch::Device;

#[derive(Debug, Args)]
pub(crate) struct Sample {
    /// Folder of an arm, as runs/quickstart/arms/small-seed0, or one of its checkpoints; or of a pipeline, or OWNER/NAME on the
    /// hub
    pub(crate) model: PathBuf,
    /// How many images; of a pipeline, of each prompt. 64, or 1 of a pipeline, by default
    #[arg(long)]
    pub(crate) n: Option<usize>,
    /// Where they go
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Image i is a function of this seed and of i
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Another sampler or grid than the recipe's, as sample.sampler={kind="unipc",order=2}
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Sampling steps; the recipe's, or 50 of a pipeline, by default
    #[arg(long)]
    pub(crate) steps: Option<usize>,
    #[command(flatten)]
    pub(crate) weights: Weights,
    #[command(flatten)]
    pub(crate) pipeline: PipelineOptions,
    #[command(flatten)]
    pub(crate) clip: ClipOptions,
    /// cpu, cuda or cuda:N; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Of a pipeline")]
pub(crate) struct PipelineOptions {
    /// What to show, or what a CLIP is to see; may be given several times
    #[arg(long = "prompt", value_name = "TEXT")]
    pub(crate) prompts: Vec<String>,
    /// A class, by number or name; may be given several times
    #[arg(long = "class", value_name = "CLASS")]
    pub(crate) classes: Vec<String>,
    /// What not to show
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub(crate) negative: String,
    /// Strength of classifier-free guidance, 1 for none; the recipe's, or as diffusers has it for a pipeline, by default
    #[arg(long, value_name = "SCALE")]
    pub(crate) guidance: Option<f64>,
    /// Width and height in pixels, as 512x512; those of the model by default
    #[arg(long, value_name = "WxH", value_parser = sides)]
    pub(crate) size: Option<[i64; 2]>,
    /// An image to follow, may be given several times: of a pipeline the hint itself, as edges, with as many nets; of an arm
    /// with a control adapter the photograph, of which its hint is computed, one after another over the samples
    #[arg(long = "control", value_name = "IMAGE")]
    pub(crate) control: Vec<PathBuf>,
    /// The ControlNet of that image; the pipeline's own by default
    #[arg(long = "control-net", value_name = "DIR", requires = "control")]
    pub(crate) control_nets: Vec<PathBuf>,
    /// How strongly it is followed, for each image or for all; 1 by default
    #[arg(long = "control-scale", value_name = "SCALE", requires = "control")]
    pub(crate) control_scales: Vec<f64>,
    /// Follow the image where there is no text to go by: guess mode of ControlNet
    #[arg(long, requires = "control")]
    pub(crate) guess: bool,
    /// A LoRA for the network, in the layout of diffusers or kohya
    #[arg(long, value_name = "FILE")]
    pub(crate) lora: Option<PathBuf>,
    /// How strongly it acts
    #[arg(long, value_name = "SCALE", default_value_t = 1.0, requires = "lora")]
    pub(crate) lora_scale: f64,
    /// Noise of another program instead of the seed's: a safetensors file with `initial` [N, C, h, w] and, for samplers that
    /// draw some, `steps` [K, N, C, h, w]
    #[arg(long, value_name = "FILE")]
    pub(crate) noise: Option<PathBuf>,
    /// Images of one forward pass
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) batch_size: usize,
    /// Decode latents in tiles of the autoencoder's own size: large images then take the memory of a tile. Other numbers than
    /// the image as a whole, as in diffusers
    #[arg(long)]
    pub(crate) tiled: bool,
    /// Which of several precisions of the folder, as fp16
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// Write images.safetensors too: floats in [-1, 1]
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Guidance by a CLIP")]
pub(crate) struct ClipOptions {
    /// A CLIP that draws images to --prompt: a folder of transformers' CLIPModel, with the tokens
    #[arg(long = "clip", value_name = "DIR")]
    pub(crate) folder: Option<PathBuf>,
    /// How strongly: what the gradient of minus the squared angle, halved, is multiplied by
    #[arg(long = "clip-scale", value_name = "SCALE", default_value_t = 500.0, requires = "folder")]
    pub(crate) scale: f64,
    /// Random views of an image that its closeness is the mean of; 0 for the image itself
    #[arg(long = "clip-views", value_name = "N", default_value_t = 4, requires = "folder")]
    pub(crate) views: i64,
}

impl ClipOptions {
    fn request(&self) -> Option<ClipRequest<'_>> {
        let Self { folder, scale, views } = self;
        folder.as_deref().map(|folder| ClipRequest { folder, scale: *scale, views: *views })
    }
}

impl PipelineOptions {
    /// Which option a model that was trained here cannot honour.
    fn check_for_arm(&self, model: &Path) -> Result<(), Error> {
        let given = [
            ("--class", !self.classes.is_empty()),
            ("--negative", !self.negative.is_empty()),
            ("--size", self.size.is_some()),
            ("--control-net", !self.control_nets.is_empty()),
            ("--control-scale", !self.control_scales.is_empty()),
            ("--guess", self.guess),
            ("--lora", self.lora.is_some()),
            ("--noise", self.noise.is_some()),
            ("--tiled", self.tiled),
            ("--variant", self.variant.is_some()),
            ("--tensors", self.tensors),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((flag, _)) => {
                let reason = format!("is for pipelines: {} has no model_index.json", model.display());
                Err(Error::config(flag, reason))
            }
            None => Ok(()),
        }
    }

    /// Every image to follow with its net and its scale.
    pub(crate) fn controls(&self) -> Result<Vec<ControlRequest>, Error> {
        let (n, nets, scales) = (self.control.len(), self.control_nets.len(), self.control_scales.len());
        if nets > 0 && nets != n {
            let reason = format!("{nets} for {n} images: give one for each");
            return Err(Error::config("--control-net", reason));
        }
        if scales > 1 && scales != n {
            let reason = format!("{scales} for {n} images: give one for each, or one for all");
            return Err(Error::config("--control-scale", reason));
        }
        let scale = |i: usize| self.control_scales.get(i).or(self.control_scales.first()).copied();
        let each = self.control.iter().enumerate().map(|(i, image)| ControlRequest {
            image: image.clone(),
            net: self.control_nets.get(i).cloned(),
            scale: scale(i).unwrap_or(1.0),
        });
        Ok(each.collect())
    }
}

fn sides(text: &str) -> Result<[i64; 2], String> {
    let sides = text.split_once(['x', 'X']).and_then(|(w, h)| Some([h.parse().ok()?, w.parse().ok()?]));
    sides.filter(|s| s.iter().all(|n| *n > 0)).ok_or_else(|| "is not WIDTHxHEIGHT, as 512x512".to_owned())
}

/// A path as it is; the folder of a pipeline by its name on the hub, `owner/name` without a folder in it, since more parts
/// are the path of an arm that is not there.
fn fetched(model: PathBuf, variant: Option<&str>) -> Result<PathBuf> {
    let is_name = |name: &&str| HubName::parse(name).is_some_and(|hub| hub.subfolder.is_empty());
    match model.to_str().filter(|name| !model.exists() && is_name(name)) {
        Some(name) => pipeline_folder(name, variant, true),
        None => Ok(model),
    }
}

impl Sample {
    /// Samples from an arm, or from a pipeline.
    pub(crate) fn run(self) -> Result<()> {
        let device = device_here(self.device)?;
        let Sample { model, n, out, seed, steps, sets, weights, pipeline, clip, .. } = self;
        let weights = weights.choice();
        let model = fetched(model, pipeline.variant.as_deref())?;
        if is_pipeline(&model) {
            if !sets.is_empty() || weights != WeightsChoice::default() {
                let reason = "is for models that were trained here: leave it out for a pipeline";
                return Err(Error::config("--set, --best, --weights, --width", reason).into());
            }
            let control = pipeline.controls()?;
            let PipelineOptions { prompts, classes, negative, guidance, size, guess, .. } = &pipeline;
            sample_pipeline(&PipelineRequest {
                folder: &model,
                prompts,
                classes,
                negative,
                n: n.unwrap_or(1),
                batch_size: pipeline.batch_size,
                size: *size,
                seed,
                noise: pipeline.noise.as_deref(),
                steps: steps.unwrap_or(50),
                guidance: *guidance,
                clip: clip.request(),
                control: &control,
                guess: *guess,
                lora: pipeline.lora.as_deref().map(|path| (path, pipeline.lora_scale)),
                variant: pipeline.variant.as_deref(),
                tiled: pipeline.tiled,
                tensors: pipeline.tensors,
                out: &out,
                device,
            })?;
        } else {
            pipeline.check_for_arm(&model)?;
            let (n, weights) = (n.unwrap_or(64), &weights);
            sample(&SampleRequest {
                model: &model,
                n,
                out: &out,
                seed,
                steps,
                sets: &sets,
                control: &pipeline.control,
                prompts: &pipeline.prompts,
                guidance: pipeline.guidance,
                clip: clip.request(),
                weights,
                device,
            })?;
        }
        println!("{}", out.join("grid.png").display());
        Ok(())
    }
}
