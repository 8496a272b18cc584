//! A stop step, predicted from short runs before the long one.

use crate::recipe::Study;
use crate::record::Record;
use crate::report::counted_records;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_train::{Event, Onset, StopPrediction, predict_stop, write_atomically};
use std::path::Path;

/// Name of an arm that trains on `1 / divisor` of the images.
fn pilot(divisor: usize) -> String {
    format!("pilot-{divisor}")
}

/// The study of the pilots: the base of a recipe on smaller training sets, each stopped when its held-out loss has not
/// fallen for `patience` validations.
pub fn pilots(study: &Study, divisors: &[usize], patience: u64) -> Result<Study> {
    let base = study.clone().without_arms()?;
    let n = base.arms[0].1.data.split.n_train;
    if divisors.len() < 2 || divisors.iter().any(|d| *d < 2 || n / d == 0) {
        let reason =
            format!("{divisors:?}: two at least, each above 1 and no more than the {n} training images");
        return Err(anyhow!(Error::config("--pilots", reason)));
    }
    let arms: Vec<(String, usize)> = divisors.iter().map(|d| (pilot(*d), n / d)).collect();
    base.with_arms(arms.into_iter().map(|(name, n)| {
        let stopping = format!("{{ kind = \"held_out_loss\", patience = {patience} }}");
        (name, format!("data.split.n_train = {n}\nvalidation.early_stopping = {stopping}\n"))
    }))
}

/// Reads what the pilots in `folder` did, predicts the stop step for the whole training set, and writes `stop.json`.
pub fn stop_step(study: &Study, folder: &Path) -> Result<StopPrediction> {
    let base = study.clone().without_arms()?;
    let recipe = &base.arms[0].1;
    let records = counted_records(folder)?;
    let mut onsets = Vec::new();
    for (arm, pilot) in &study.arms {
        for seed in &study.seeds {
            onsets.push(onset(&records, arm, *seed, pilot.data.split.n_train, recipe.validation.every)?);
        }
    }
    let prediction = predict_stop(&onsets, recipe.data.split.n_train as u64)?;
    let text =
        serde_json::to_string_pretty(&serde_json::json!({ "onsets": onsets, "prediction": prediction }))?;
    write_atomically(&folder.join("stop.json"), (text + "\n").as_bytes())?;
    Ok(prediction)
}

/// The step of the lowest held-out loss, after which the training loss goes on alone; Bonnaire et al. 2025.
fn onset(records: &[Record], arm: &str, seed: u64, n: usize, every: u64) -> Result<Onset> {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let losses: Vec<(u64, f64)> = records
        .iter()
        .filter(|r| r.arm == arm && r.seed == seed)
        .filter_map(|r| match &r.event {
            Event::Validation { held_out, .. } => Some((r.step, mean(held_out))),
            _ => None,
        })
        .collect();
    let lowest = losses.iter().min_by(|a, b| a.1.total_cmp(&b.1));
    match (lowest, losses.last()) {
        (Some(lowest), Some(last)) if lowest.0 < last.0 => {
            Ok(Onset { n: n as u64, step: lowest.0, resolution: every })
        }
        (_, last) => {
            let step = last.map_or(0, |l| l.0);
            let reason = format!(
                "too few: the held-out loss of {arm} seed {seed} ({n} images) was still falling at step {step}, so that \
                 its onset is not known; raise it, or take smaller pilots"
            );
            Err(anyhow!(Error::config("train.steps", reason)))
        }
    }
}
