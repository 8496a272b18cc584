//! Sampling from a trained model.

use crate::assemble::{Assembled, Loss, generate, model};
use crate::evaluate::{save_grid, save_png};
use crate::recipe::{Recipe, apply_all, parse};
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use heldout_core::{Error, Preconditioned};
use heldout_data::to_bytes;
use heldout_weights::Model;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tch::{Device, nn};

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
    /// Which of the arm's weights.
    pub weights: &'a WeightsChoice,
    /// Where tensors live.
    pub device: Device,
}

/// Writes `00000.png`, .. and `grid.png`.
pub fn sample(request: &SampleRequest<'_>) -> Result<()> {
    let SampleRequest { model: path, n, out, seed, steps, sets, weights, device } = *request;
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
    let shape = image_shape(&arm, &recipe)?;
    let Opened { model, .. } = open(&arm, path, &recipe, shape, weights, device)?;
    let existed = out.exists();
    fs::create_dir_all(out).map_err(Error::io(out))?;
    let write = || -> Result<()> {
        let images = generate(model.as_ref(), &recipe.sample, shape, 0..n as u64, seed, device)?;
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

/// A trained model with what it was trained by.
pub(crate) struct Opened {
    pub(crate) vars: nn::VarStore,
    pub(crate) model: Rc<Preconditioned>,
    pub(crate) loss: Loss,
    /// Steps that its checkpoint had done.
    pub(crate) step: u64,
}

/// The model of an arm and its recipe, with the chosen weights of `path` and the pace of its schedule.
pub(crate) fn open(
    arm: &Path,
    path: &Path,
    recipe: &Recipe,
    shape: [i64; 3],
    weights: &WeightsChoice,
    device: Device,
) -> Result<Opened> {
    let Assembled { vars, model, mut loss } = model(recipe, shape, 0, device)?;
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
    Ok(Opened { vars, model, loss, step: loaded.step })
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
    let model = Model::fresh(recipe.model.clone(), device)?;
    weights.restore(&arm, path, &recipe, &model.vars)?;
    Ok(model)
}

/// The folder with `arm.toml`: the path itself, or two above a checkpoint.
pub(crate) fn arm_folder(path: &Path) -> Result<PathBuf> {
    let candidates = path.ancestors().take(3);
    let found = candidates.into_iter().find(|p| p.join("arm.toml").is_file()).map(Path::to_owned);
    found.ok_or_else(|| {
        let reason = "holds no model: give the folder of an arm, as runs/quickstart/arms/small-seed0";
        anyhow!(Error::file(path, reason))
    })
}

/// The samples that the run left say how large its images are.
pub(crate) fn image_shape(arm: &Path, recipe: &Recipe) -> Result<[i64; 3]> {
    let path = arm.join("shape.json");
    let shape: [i64; 3] = crate::run::read_json(&path)?;
    let mask = i64::from(recipe.regularization.corruption.is_some()); // one more channel
    recipe.model.check_images(shape[0] + mask, shape[1], shape[2])?;
    Ok(shape)
}
