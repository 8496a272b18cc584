//! Sampling from a trained model.

use crate::adapter::{Adaptation, Bases, Hints, control_hint};
use crate::assemble::{Assembled, Loss, generate, guided, model};
use crate::captioned::Prompts;
use crate::clip::{Clip, ClipRequest};
use crate::conditions::SampleConditions;
use crate::evaluate::{save_grid, save_png};
use crate::recipe::{Recipe, apply_all, parse};
use crate::space::Space;
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use heldout_core::{Denoiser, Error, Preconditioned};
use heldout_data::to_bytes;
use heldout_weights::Model;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tch::{Device, Tensor, nn};

/// What to sample.
#[derive(Debug)]
pub struct SampleRequest<'a> {
    /// An arm's folder, or one of its checkpoints.
    pub model: &'a Path,
    /// How many images.
    pub n: usize,
    /// Where they go.
    pub out: &'a Path,
    /// Image `i` is a function of this and of `i`.
    pub seed: u64,
    /// `KEY=VALUE`, keys of `sample` alone: the rest is what the model was trained with.
    pub sets: &'a [String],
    /// Sampling steps; those of the recipe if absent.
    pub steps: Option<usize>,
    /// Images that an arm with a control adapter follows, one after the other: its hints are computed from them.
    pub control: &'a [PathBuf],
    /// Texts that samples show, one after another, of an arm that was trained with texts; those that the run has left if
    /// there are none. Guidance by a CLIP draws samples of any arm to them.
    pub prompts: &'a [String],
    /// Strength of classifier-free guidance; that of the recipe if absent.
    pub guidance: Option<f64>,
    /// A CLIP that draws samples to the texts.
    pub clip: Option<ClipRequest<'a>>,
    /// Which of the arm's weights.
    pub weights: &'a WeightsChoice,
    /// Where tensors live.
    pub device: Device,
}

/// Writes `00000.png`, .. and `grid.png`.
pub fn sample(request: &SampleRequest<'_>) -> Result<()> {
    let SampleRequest { model: path, n, out, seed, steps, sets, weights, device, .. } = *request;
    if n == 0 || steps == Some(0) {
        return Err(anyhow!(Error::config("--n, --steps", "0: at least 1 is needed")));
    }
    let arm = arm_folder(path)?;
    if let Some(set) = sets.iter().find(|set| !set.starts_with("sample.")) {
        let reason = "the model has been trained: only sample.sampler, sample.grid and their kin can be set";
        return Err(anyhow!(Error::config(format!("--set {set}"), reason)));
    }
    let mut recipe = recipe_of(&arm, sets)?;
    recipe.sample.steps = steps.unwrap_or(recipe.sample.steps);
    recipe.check()?;
    let space = space_of(&arm, &recipe, device)?;
    let Opened { model, .. } = open(&arm, path, &recipe, &space, weights, device)?;
    let (told, clip) = conditions(request, &arm, &recipe, &space)?;
    let denoiser = guided(model.as_ref(), &told, request.guidance)?;
    let by_clip = clip.map(|(clip, asked)| {
        clip.guided(&asked, denoiser.as_ref() as &dyn Denoiser, space.autoencoder(), seed)
    });
    let denoiser = by_clip.as_ref().map_or(denoiser.as_ref(), |by_clip| by_clip as &dyn Denoiser);
    let existed = out.exists();
    fs::create_dir_all(out).map_err(Error::io(out))?;
    let write = || -> Result<()> {
        let told = |range| told.of(range);
        let samples = generate(denoiser, &recipe.sample, (&space, &told), 0..n as u64, seed, device)?;
        let images = space.examples.pictures(&space.to_images(&samples, recipe.sample.batch_size));
        let bytes = to_bytes(&images).to_device(Device::Cpu);
        (0..n).try_for_each(|i| save_png(&bytes.get(i as i64), &out.join(format!("{i:05}.png"))))?;
        save_grid(&images, &out.join("grid.png"))
    };
    write().inspect_err(|_| {
        if !existed {
            let _ = fs::remove_dir_all(out); // the error that is reported is the first one
        }
    })
}

/// What samples are told, and the CLIP that they are drawn by.
fn conditions<'a>(
    request: &SampleRequest<'a>,
    arm: &Path,
    recipe: &Recipe,
    space: &Space,
) -> Result<(SampleConditions, Option<(Clip, ClipRequest<'a>)>)> {
    let SampleRequest { prompts: texts, guidance, clip, device, .. } = *request;
    let fail = |flag: &str, reason: &str| Err(anyhow!(Error::config(flag, reason)));
    let prompts = match &recipe.text {
        Some(config) => Some(Prompts::read(config, arm, texts, device)?),
        None if guidance.is_some() => return fail("--guidance", "the arm was trained without texts"),
        None if clip.is_none() && !texts.is_empty() => {
            return fail("--prompt", "the arm was trained without texts: leave it out, or give --clip");
        }
        None if clip.is_some() && texts.is_empty() => {
            return fail("--clip", "needs --prompt: a text that the images are drawn to");
        }
        None => None,
    };
    let hints = controls(recipe, space, request.control, device)?;
    let mut told = SampleConditions { hints, prompts, ..SampleConditions::default() };
    let Some(asked) = clip else { return Ok((told, None)) };
    asked.check()?;
    let clip = Clip::open(asked.folder, device)?;
    let shown = told.prompts.as_ref().map_or(texts, Prompts::texts);
    told.targets = Some(clip.embeddings("--prompt", shown)?);
    Ok((told, Some((clip, asked))))
}

/// A trained model with what it was trained by.
pub(crate) struct Opened {
    pub(crate) vars: nn::VarStore,
    pub(crate) model: Rc<Preconditioned>,
    pub(crate) loss: Loss,
    /// Of a recipe with an adapter.
    pub(crate) adaptation: Option<Adaptation>,
    /// Steps that its checkpoint had done.
    pub(crate) step: u64,
}

/// The model of an arm and its recipe, with the chosen weights of `path` and the pace of its schedule.
pub(crate) fn open(
    arm: &Path,
    path: &Path,
    recipe: &Recipe,
    space: &Space,
    weights: &WeightsChoice,
    device: Device,
) -> Result<Opened> {
    let bases = bases_of(arm, recipe)?;
    let made = model(recipe, space, (0, bases.as_ref()), device)?;
    let Assembled { vars, model, mut loss, adaptation } = made;
    let mut loaded = weights.restore(arm, path, recipe, &vars)?;
    let mut times = loaded.state.unnest("objective").unnest("times"); // the pace of a dynamic schedule
    loop {
        let inner = times.unnest("inner"); // techniques lie around it
        if inner.tensors.is_empty() && inner.values.is_empty() {
            break;
        }
        times = inner;
    }
    loss.times.load_state(times)?;
    Ok(Opened { vars, model, loss, adaptation, step: loaded.step })
}

/// The bases of an arm with an adapter.
pub(crate) fn bases_of(arm: &Path, recipe: &Recipe) -> Result<Option<Bases>> {
    recipe.adapter.is_some().then(|| Bases::read(arm)).transpose()
}

/// The hints of images, `[n, c, H, W]`, for an arm whose adapter looks at some.
fn controls(recipe: &Recipe, space: &Space, images: &[PathBuf], device: Device) -> Result<Option<Tensor>> {
    let hints = Hints::of(recipe.adapter.as_ref());
    match (hints, images) {
        (None, []) => Ok(None),
        (None, _) => {
            let reason = "the arm follows no images: it has no control_net, t2i or decoupled adapter";
            Err(anyhow!(Error::config("--control", reason)))
        }
        (Some(_), []) => {
            let reason = "the arm follows images: name one, of which its hint is computed";
            Err(anyhow!(Error::config("--control", reason)))
        }
        (Some(hints), _) => {
            let all = images.iter().map(|path| control_hint(&hints, path, space.images, device));
            Ok(Some(Tensor::cat(&all.collect::<Result<Vec<_>>>()?, 0)))
        }
    }
}

/// The recipe of an arm, with `sets` applied.
pub(crate) fn recipe_of(arm: &Path, sets: &[String]) -> Result<Recipe> {
    let path = arm.join("arm.toml");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|e| Error::file(&path, e.message().to_owned()))?;
    apply_all(&mut table, sets)?;
    parse(table.into())
}

/// The network of an arm's folder or of one of its checkpoints, with its weights.
pub(crate) fn trained(path: &Path, weights: &WeightsChoice, device: Device) -> Result<Model> {
    let arm = arm_folder(path)?;
    let recipe = recipe_of(&arm, &[])?;
    if recipe.adapter.is_some() {
        let reason = "is an adapter, not a network: name the folder of its base";
        return Err(anyhow!(Error::file(arm, reason)));
    }
    let model = Model::fresh(recipe.model.clone(), device)?;
    weights.restore(&arm, path, &recipe, &model.vars)?;
    Ok(model)
}

/// The folder with `arm.toml`: the path itself, or two above a checkpoint.
pub(crate) fn arm_folder(path: &Path) -> Result<PathBuf> {
    let candidates = path.ancestors().take(3);
    let found = candidates.into_iter().find(|p| p.join("arm.toml").is_file()).map(Path::to_owned);
    found.ok_or_else(|| {
        let reason = "holds no model: give the folder of an arm, as runs/quickstart/arms/small-seed0 (a pipeline has a model_index.json)";
        anyhow!(Error::file(path, reason))
    })
}

/// What a trained model works on; the run has left how large its images are.
pub(crate) fn space_of(arm: &Path, recipe: &Recipe, device: Device) -> Result<Space> {
    let space = Space::of(recipe, crate::run::read_json(&arm.join("shape.json"))?, device)?;
    let mask = i64::from(recipe.regularization.corruption.is_some()); // one more channel
    let [channels, height, width] = space.shape;
    recipe.model.check_images(channels + mask, height, width)?;
    Ok(space)
}
