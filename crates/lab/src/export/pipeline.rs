//! A trained model with what it takes to sample from it, as a pipeline of diffusers.

use crate::pipeline::{SCHEDULER, SCHEDULER_FILE};
use crate::recipe::Recipe;
use crate::sample::space_of;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_samplers::{DiffusersScheduler, SamplerConfig, TimeGrid, Variance};
use heldout_train::write_atomically;
use heldout_vae::LatentScale;
use heldout_weights::{AutoencoderModel, Model, ModelConfig, OpenOptions, Part, PipelineIndex};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tch::Device;

/// Writes the pipeline of an arm; gives the name of its class.
///
/// A `UNet2DModel` of images that is told nothing becomes a `DDPMPipeline`; a `DiTTransformer2DModel` of latents with its
/// autoencoder a `DiTPipeline`. diffusers has 1000 for "no class" there: guidance needs a model of 1000 classes with it.
///
/// # Errors
/// What diffusers has no such pipeline or scheduler for, by the field of the recipe.
pub(super) fn export_pipeline(arm: &Path, recipe: &Recipe, mut model: Model, out: &Path) -> Result<String> {
    let space = space_of(arm, recipe, Device::Cpu)?;
    if space.examples.frames() > 1 {
        let reason = "the model makes clips, and these pipelines images: leave it out";
        return Err(anyhow!(Error::config("--pipeline", reason)));
    }
    let [_, height, width] = space.shape;
    model.config = model.config.to_diffusers().map_err(|e| e.within("model"))?;
    let (class, name, autoencoder) = match (&mut model.config, &recipe.latent) {
        (ModelConfig::UNet2DModel(config), None)
            if config.class_embed_type.is_none() && config.num_class_embeds.is_none() =>
        {
            config.sample_size = if height == width { json!(height) } else { json!([height, width]) };
            ("DDPMPipeline", "unet", None)
        }
        (ModelConfig::DiTTransformer2DModel(config), Some(latent)) => {
            if [height, width] != [config.sample_size; 2] {
                let reason = format!(
                    "{}: the latents are {width}x{height}, and a DiTPipeline samples what the network was made for",
                    config.sample_size
                );
                return Err(anyhow!(Error::config("model.sample_size", reason)));
            }
            let opened = AutoencoderModel::open(&latent.autoencoder, Device::Cpu, OpenOptions::default())?;
            ("DiTPipeline", "transformer", Some(with_one_factor(opened)?))
        }
        _ => {
            let reason = "diffusers has a pipeline for a unet of images that is told nothing, and for a dit of latents \
                          that is told classes: leave it out";
            return Err(anyhow!(Error::config("--pipeline", reason)));
        }
    };
    if recipe.regularization.corruption.is_some() {
        let reason =
            "the network is told what is hidden, and no pipeline of diffusers tells it: leave it out";
        return Err(anyhow!(Error::config("--pipeline", reason)));
    }
    let text = scheduler(recipe, autoencoder.is_some())?;
    let network = model.config.to_json()?;
    let part = |fields: &Map<String, Value>| {
        Part::new("diffusers", fields.get("_class_name").and_then(Value::as_str).unwrap_or_default())
    };
    let mut parts =
        vec![(name.to_owned(), part(&network)), (SCHEDULER.to_owned(), part(&serde_json::from_str(&text)?))];
    if let Some(autoencoder) = &autoencoder {
        parts.push(("vae".to_owned(), part(&autoencoder.config.to_json()?)));
    }
    let index =
        PipelineIndex { class: class.to_owned(), parts: parts.into_iter().collect(), fields: Map::new() };
    index.save(out, |folder| {
        model.save(&folder.join(name))?;
        autoencoder.iter().try_for_each(|autoencoder| autoencoder.save(&folder.join("vae")))?;
        let scheduler = folder.join(SCHEDULER);
        fs::create_dir(&scheduler).map_err(Error::io(&scheduler))?;
        write_atomically(&scheduler.join(SCHEDULER_FILE), text.as_bytes())
    })?;
    Ok(index.class)
}

/// An autoencoder whose latents diffusers' pipelines scale as it does: they know one factor and no shift.
fn with_one_factor(mut autoencoder: AutoencoderModel) -> Result<AutoencoderModel> {
    let is_factor = |scale: &LatentScale| matches!(scale.as_uniform(), Some((0.0, _)));
    if !is_factor(autoencoder.network.latent_scale()) {
        autoencoder.fold_latent_scale().map_err(|e| e.within("latent.autoencoder"))?;
    }
    Ok(autoencoder)
}

/// The text of the scheduler: the recipe's sampler and grid where diffusers has both and its pipeline can use them; else
/// the nearest that it has, which is the same sampler on evenly spaced steps, or the sampler that the published pipelines of
/// this class came with.
fn scheduler(recipe: &Recipe, latents: bool) -> Result<String> {
    let steps = recipe.schedule.steps().ok_or_else(|| {
        Error::config(
            "schedule",
            "diffusers' pipelines of this class need one of discrete steps: leave --pipeline out",
        )
    })?;
    let learned = recipe.objective.variance_bound.is_some();
    let usual = match latents {
        true => SamplerConfig::Ddim { eta: 0.0 },
        false if learned => SamplerConfig::Ddpm { variance: Variance::Learned },
        false => SamplerConfig::Ddpm { variance: Variance::FixedSmall },
    };
    // A DiTPipeline leaves out what the network says of variances, and a DDPMPipeline cannot but use it. What else they
    // cannot use are samplers that scale their states.
    let fits = |sampler: &SamplerConfig| match sampler {
        SamplerConfig::Ddpm { variance } if latents => *variance != Variance::Learned,
        SamplerConfig::Ddpm { variance } => (*variance == Variance::Learned) == learned,
        SamplerConfig::Ddim { .. } | SamplerConfig::DpmSolver2m | SamplerConfig::UniPc { .. } => latents,
        _ => false,
    };
    let sampler = recipe.sample.sampler;
    let sampler = if fits(&sampler) { sampler } else { usual };
    let spaced = TimeGrid::Trailing { train_steps: steps };
    let candidates = [(sampler, recipe.sample.grid.clone()), (sampler, spaced.clone()), (usual, spaced)];
    let texts = candidates.map(|(sampler, grid)| {
        let scheduler = DiffusersScheduler {
            schedule: recipe.schedule.clone(),
            prediction: recipe.objective.prediction,
            sampler,
            grid,
            clip: (!latents).then_some(1.0),
            starts_from_noise: false,
        };
        scheduler.to_json()
    });
    let [.., last] = &texts;
    let reason = last.as_ref().err().map(ToString::to_string);
    texts.into_iter().find_map(Result::ok).ok_or_else(|| {
        anyhow!(Error::config("--pipeline", format!("{}: leave it out", reason.unwrap_or_default())))
    })
}
