//! Sampling from a trained model.

use crate::assemble::{Assembled, generate, model};
use crate::evaluate::{save_grid, save_png};
use crate::recipe::{Recipe, apply_all, parse};
use anyhow::{Result, anyhow};
use heldout_core::{Error, Params};
use heldout_data::to_bytes;
use heldout_train::Loaded;
use heldout_weights::Model;
use std::fs;
use std::path::{Path, PathBuf};
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
    /// The checkpoint of the lowest held-out loss, not the newest.
    pub best: bool,
    /// The weights that were trained, not their average.
    pub live: bool,
    /// Where tensors live.
    pub device: Device,
}

/// Writes `00000.png`, .. and `grid.png`.
pub fn sample(request: &SampleRequest<'_>) -> Result<()> {
    let SampleRequest { model: path, n, out, seed, steps, sets, best, live, device } = *request;
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
    let checkpoint = Checkpoint { arm: &arm, path, best, live };
    let Assembled { vars, model, mut loss } = model(&recipe, 0, device)?;
    let mut loaded = checkpoint.restore(&vars)?;
    loss.times.load_state(loaded.state.unnest("objective").unnest("times"))?; // the pace of a dynamic schedule
    let shape = image_shape(&arm, &recipe)?;
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

/// Which weights of an arm.
struct Checkpoint<'a> {
    arm: &'a Path,
    path: &'a Path,
    best: bool,
    live: bool,
}

impl Checkpoint<'_> {
    /// Puts the weights into the variables of a model of the arm's recipe.
    fn restore(&self, vars: &nn::VarStore) -> Result<Loaded> {
        let Self { arm, path, best, live } = *self;
        let checkpoints = if path == arm { arm.join("checkpoints") } else { path.to_owned() };
        let mut loaded = Loaded::open(&checkpoints, best)?;
        for damage in &loaded.damaged {
            eprintln!("passed over a damaged checkpoint: {damage}");
        }
        let state = &mut loaded.state;
        let mut weights =
            if live { state.unnest("weights") } else { state.unnest("update").unnest("average") };
        for (name, t) in Params::of(vars).named() {
            weights.restore(name, &mut t.shallow_clone()).map_err(|e| {
                let reason = format!("does not fit the model of {}: {e}", arm.join("arm.toml").display());
                Error::file(&checkpoints, reason)
            })?;
        }
        Ok(loaded)
    }
}

/// The recipe of an arm, with `sets` applied.
fn recipe_of(arm: &Path, sets: &[String]) -> Result<Recipe> {
    let path = arm.join("arm.toml");
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let mut table: toml::Table =
        toml::from_str(&text).map_err(|e| Error::file(&path, e.message().to_owned()))?;
    apply_all(&mut table, sets)?;
    parse(table.into())
}

/// The network of an arm's folder or of one of its checkpoints, with its weights.
pub(crate) fn trained(path: &Path, best: bool, live: bool, device: Device) -> Result<Model> {
    let arm = arm_folder(path)?;
    let model = Model::fresh(recipe_of(&arm, &[])?.model, device)?;
    Checkpoint { arm: &arm, path, best, live }.restore(&model.vars)?;
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
fn image_shape(arm: &Path, recipe: &Recipe) -> Result<[i64; 3]> {
    let path = arm.join("shape.json");
    let shape: [i64; 3] = crate::run::read_json(&path)?;
    recipe.model.check_images(shape[0], shape[1], shape[2])?;
    Ok(shape)
}
