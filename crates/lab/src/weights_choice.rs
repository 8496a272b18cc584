//! Which of the weights that a run left.

use crate::recipe::Recipe;
use anyhow::{Result, anyhow};
use heldout_core::{Error, Params, State};
use heldout_regularization::{PowerDecay, Profile, WeightsTechnique, reconstruct};
use heldout_train::{Choice, KeptAverages, LIVE, Loaded};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Tensor, nn};

/// Which of the weights that a run left: of which checkpoint, and which of its averages.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WeightsChoice {
    /// The checkpoint of the lowest score of this name; the newest if absent.
    pub best: Option<String>,
    /// `live`, or the name of an average; those that were evaluated if absent.
    pub name: Option<String>,
    /// A power-function average of this width, made from those that were kept along the run.
    pub width: Option<f64>,
}

impl WeightsChoice {
    /// Puts the weights into the variables of a model of the arm's recipe.
    pub(crate) fn restore(
        &self,
        arm: &Path,
        path: &Path,
        recipe: &Recipe,
        vars: &nn::VarStore,
    ) -> Result<Loaded> {
        let checkpoints = if path == arm { arm.join("checkpoints") } else { path.to_owned() };
        let mut loaded = Loaded::open(&checkpoints, self.best.as_deref().map_or(Choice::Last, Choice::Best))?;
        for damage in &loaded.damaged {
            eprintln!("passed over a damaged checkpoint: {damage}");
        }
        let mut weights = match (self.width, self.name.as_deref()) {
            (Some(_), Some(_)) => {
                return Err(anyhow!(Error::config(
                    "--width",
                    "cannot be had with --weights: give one of them"
                )));
            }
            (Some(width), None) => reconstructed(arm, recipe, loaded.step, width)?,
            (None, Some(LIVE)) => loaded.state.unnest("weights"),
            (None, name) => evaluated(&mut loaded.state, recipe, name)?,
        };
        for (name, t) in Params::of(vars).named() {
            weights.restore(name, &mut t.shallow_clone()).map_err(|e| {
                let reason = format!("does not fit the model of {}: {e}", arm.join("arm.toml").display());
                Error::file(&checkpoints, reason)
            })?;
        }
        Ok(loaded)
    }
}

/// The average `name`, or those weights that were evaluated: the outermost average, or the live ones.
fn evaluated(state: &mut State, recipe: &Recipe, name: Option<&str>) -> Result<State> {
    let mut names = recipe.regularization.weights.iter().filter_map(WeightsTechnique::average);
    let Some(name) = (match name {
        Some(wanted) => Some(names.clone().find(|name| name == wanted).ok_or_else(|| {
            let known: Vec<String> = std::iter::once(LIVE.to_owned()).chain(names.clone()).collect();
            let reason = format!("`{wanted}` is none of the weights of this run: {}", known.join(", "));
            anyhow!(Error::config("--weights", reason))
        })?),
        None => names.next_back(),
    }) else {
        return Ok(state.unnest("weights"));
    };
    // Updates lie within one another; each average is under its name, however deep.
    let mark = format!("average {name}/");
    let deep = |key: &String| key.starts_with("update/").then(|| key.find(&mark)).flatten();
    let found: BTreeMap<String, Tensor> = state
        .tensors
        .iter()
        .filter_map(|(key, t)| Some((key[deep(key)? + mark.len()..].to_owned(), t.shallow_clone())))
        .collect();
    Ok(State { tensors: found, ..State::default() })
}

/// Least squares from the averages that were kept up to `step`; Karras et al. 2024, Algorithm 3.
fn reconstructed(arm: &Path, recipe: &Recipe, step: u64, width: f64) -> Result<State> {
    let folder = arm.join("averages");
    let mut stored = Vec::new();
    for technique in &recipe.regularization.weights {
        if let WeightsTechnique::PowerEma(config) = technique {
            let gamma = PowerDecay::of_width(config.width)?.gamma;
            let kept = KeptAverages::list(&folder, &config.name())?.into_iter().filter(|(s, _)| *s <= step);
            stored.extend(kept.map(|(steps, path)| (Profile { steps: steps as f64, gamma }, path)));
        }
    }
    if stored.is_empty() {
        let reason = "the run kept no power-function averages: train with weights = [{ kind = \"power_ema\", .. }] and \
                      checkpoint.averages_every";
        return Err(anyhow!(Error::config("--width", reason)));
    }
    let wanted_decay = PowerDecay::of_width(width).map_err(|e| match e {
        Error::Config { reason, .. } => Error::config("--width", reason),
        other => other,
    })?;
    let wanted = Profile { steps: step as f64, gamma: wanted_decay.gamma };
    let profiles: Vec<Profile> = stored.iter().map(|(profile, _)| *profile).collect();
    let mut sum: BTreeMap<String, Tensor> = BTreeMap::new();
    for (weight, (_, path)) in reconstruct(&profiles, wanted)?.into_iter().zip(&stored) {
        // One file at a time: as many may lie there as the run had room for.
        let tensors =
            Tensor::read_safetensors(path).map_err(|e| Error::file(path, format!("damaged: {e}")))?;
        for (name, t) in tensors {
            let part = t * weight;
            match sum.get_mut(&name) {
                Some(total) => *total += part,
                None => drop(sum.insert(name, part)),
            }
        }
    }
    Ok(State { tensors: sum, ..State::default() })
}
