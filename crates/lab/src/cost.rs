//! What a technique costs: a training step with it beside the same step without.

use crate::arm::Arm;
use crate::dirs::project_root;
use crate::parts::Parts;
use crate::recipe::Study;
use anyhow::{Result, anyhow};
use heldout_core::{Clock, Error, Update, stream};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tch::Device;

/// What to measure.
#[derive(Debug)]
pub struct CostRequest<'a> {
    /// The recipe; only its base, without its own techniques.
    pub recipe: &'a Path,
    /// Fragments, each measured alone, with their names.
    pub fragments: &'a [(String, PathBuf)],
    /// `KEY=VALUE`, for both sides.
    pub sets: &'a [String],
    /// How often the two sides take turns.
    pub rounds: usize,
    /// Steps of a turn.
    pub steps: u64,
    /// Where tensors live.
    pub device: Device,
}

/// One technique beside no technique, in turns within one process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    /// Of the fragment.
    pub technique: String,
    /// Milliseconds of a step without it, median.
    pub without_ms: f64,
    /// With it.
    pub with_ms: f64,
    /// Median over rounds of the ratio of both.
    pub ratio: f64,
    /// The smallest and the largest.
    pub range: [f64; 2],
}

/// Measures every fragment; one that does not fit the recipe is given with its error instead.
pub fn costs<'a>(request: &'a CostRequest<'a>) -> Result<impl Iterator<Item = (&'a str, Result<Cost>)> + 'a> {
    if request.rounds == 0 || request.steps == 0 {
        return Err(anyhow!(Error::config("--rounds, --steps", "0: at least 1 is needed")));
    }
    let root = project_root().join("datasets");
    Ok(request.fragments.iter().map(move |(name, path)| (name.as_str(), cost(request, name, path, &root))))
}

fn cost(request: &CostRequest<'_>, name: &str, fragment: &Path, root: &Path) -> Result<Cost> {
    let study = |fragments: &[PathBuf]| {
        Study::read_only_with(request.recipe, fragments, request.sets)?.without_arms()
    };
    let (plain, changed) = (study(&[])?, study(&[fragment.to_owned()])?);
    let open = |study: &Study| -> Result<Running> {
        let arm = Arm::open("cost", 0, &study.arms[0].1, root, request.device)?;
        Ok(Running { parts: arm.parts()?, total: study.arms[0].1.train.steps, step: 0 })
    };
    let (mut without, mut with) = (open(&plain)?, open(&changed)?);
    let mut rounds = Vec::new();
    for round in 0..=request.rounds {
        let pair = (without.seconds(request.steps)?, with.seconds(request.steps)?);
        if round > 0 {
            rounds.push(pair); // the first turn warms both up
        }
    }
    let ms = |of: fn(&(f64, f64)) -> f64| 1e3 * median(rounds.iter().map(of).collect());
    let ratios: Vec<f64> = rounds.iter().map(|(without, with)| with / without).collect();
    let extreme = |pick: fn(f64, f64) -> f64| ratios.iter().copied().reduce(pick).unwrap_or(f64::NAN);
    Ok(Cost {
        technique: name.to_owned(),
        without_ms: ms(|p| p.0),
        with_ms: ms(|p| p.1),
        range: [extreme(f64::min), extreme(f64::max)],
        ratio: median(ratios.clone()),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) struct Running {
    pub(crate) parts: Parts,
    pub(crate) total: u64,
    pub(crate) step: u64,
}

impl Running {
    /// Mean seconds of each of the next `steps` steps, as `train` makes them.
    pub(crate) fn seconds(&mut self, steps: u64) -> Result<f64> {
        let Parts { data, objective, update, .. } = &mut self.parts;
        let started = Instant::now();
        for step in self.step..self.step + steps {
            let clock = Clock { step: step % self.total, total: self.total };
            let batch = data.batch(clock)?;
            tch::manual_seed(stream(0, "step", step, 0) as i64);
            let evaluation = update.update(objective, &batch, clock)?;
            let _ = evaluation.loss.double_value(&[]); // a device has done its work by then
        }
        self.step += steps;
        Ok(started.elapsed().as_secs_f64() / steps as f64)
    }
}
