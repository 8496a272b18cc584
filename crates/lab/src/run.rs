//! A study from its recipe to its report.

use crate::adapter::{AdapterResult, Bases};
use crate::arm::{Arm, ArmEnding};
use crate::dirs::project_root;
use crate::machine::{machine, versions};
use crate::progress::Bar;
use crate::recipe::{Recipe, Study};
use crate::record::RunInfo;
use crate::report;
use crate::result::{ArmResult, RunResult};
use anyhow::{Context, Result, anyhow};
use heldout_core::Error;
use heldout_train::write_atomically;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tch::Device;

/// What to run, and where.
#[derive(Debug)]
pub struct Request<'a> {
    /// The study.
    pub study: &'a Study,
    /// The run folder; it is made, or gone on with where `resume` is set.
    pub folder: &'a Path,
    /// Whether the folder holds a run that was cut.
    pub resume: bool,
    /// The command that re-makes the run.
    pub command: String,
    /// Where tensors live.
    pub device: Device,
    /// Set by signals.
    pub interrupt: &'a AtomicBool,
}

/// How a run ended.
#[derive(Debug)]
pub enum Outcome {
    /// All arms are done.
    Done(Box<RunResult>),
    /// A signal came; the state is saved.
    Interrupted,
}

/// Runs every arm with every seed, arm after arm, skipping those that are done.
pub fn run(request: &Request<'_>) -> Result<Outcome> {
    let Request { study, folder, .. } = request;
    let root = project_root().join("datasets");
    for latent in study.arms.iter().filter_map(|(_, recipe)| recipe.latent.as_ref()) {
        if !latent.prepare(request.device, request.interrupt)? {
            return Ok(Outcome::Interrupted);
        }
    }
    let open = |(name, recipe): &'_ (String, Recipe), seed: u64| -> Result<String> {
        let arm = Arm::open(name, seed, recipe, &root, request.device)?;
        if !request.resume {
            arm.check()?;
        }
        Ok(arm.data_line())
    };
    // Everything that can be wrong with the data is found before a folder is made.
    let mut data = study.arms.iter().map(|arm| open(arm, study.seeds[0])).collect::<Result<Vec<_>>>()?;
    data.dedup();
    begin(request, data)?;
    let steps = study.arms.iter().map(|(_, r)| r.train.steps).sum::<u64>() * study.seeds.len() as u64;
    let bar = Bar::new(steps);
    let mut results = Vec::new();
    for seed in &study.seeds {
        for (name, recipe) in &study.arms {
            let done = folder.join("arms").join(format!("{name}-seed{seed}")).join("arm.json");
            if done.is_file() {
                results.push(read_json(&done)?);
                bar.skip(recipe.train.steps);
                continue;
            }
            let mut arm = Arm::open(name, *seed, recipe, &root, request.device)?;
            let own = folder.join("arms").join(format!("{name}-seed{seed}"));
            arm.bases = recipe.adapter.as_ref().map(|adapter| Bases::new(adapter, &own, *seed));
            match arm.run(folder, &bar, request.interrupt)? {
                ArmEnding::Done(result) => results.push(*result),
                ArmEnding::Interrupted => {
                    bar.finish();
                    return Ok(Outcome::Interrupted);
                }
            }
        }
    }
    bar.finish();
    let verdict = verdict(study, &results);
    let (recipe, question) = (study.name.clone(), study.question.clone());
    let result = RunResult { format: 1, recipe, question, verdict, arms: results };
    write_atomically(
        &folder.join("result.json"),
        (serde_json::to_string_pretty(&result)? + "\n").as_bytes(),
    )?;
    report::write(folder)?;
    Ok(Outcome::Done(Box::new(result)))
}

fn begin(request: &Request<'_>, data: Vec<String>) -> Result<()> {
    let Request { study, folder, resume, .. } = request;
    if *resume {
        return Ok(());
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let reason = "is not empty: choose another --out, or go on with --resume";
        return Err(anyhow!(Error::file(*folder, reason)));
    }
    let existed = folder.exists();
    let info = RunInfo {
        recipe: study.name.clone(),
        question: study.question.clone(),
        command: request.command.clone(),
        seeds: study.seeds.clone(),
        data,
        versions: versions(),
        machine: machine(request.device),
    };
    let write = || -> Result<()> {
        fs::create_dir_all(folder).map_err(Error::io(*folder))?;
        write_atomically(&folder.join("recipe.toml"), study.resolved.as_bytes())?;
        write_atomically(&folder.join("run.json"), serde_json::to_string_pretty(&info)?.as_bytes())?;
        Ok(())
    };
    write().inspect_err(|_| {
        if !existed {
            let _ = fs::remove_dir_all(folder); // the error that is reported is the first one
        }
    })
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|e| anyhow!(Error::file(path, format!("damaged: {e}"))))
}

/// Parses nothing new: builds every object of every arm and runs one step, its evaluation and its report, in a folder of
/// its own that is removed.
pub fn check(study: &Study, device: Device) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("heldout-check-{}", std::process::id()));
    let kept = folder.with_extension("cache");
    let mut small = study.clone();
    small.seeds.truncate(1);
    for (_, recipe) in &mut small.arms {
        recipe.train.steps = 1;
        recipe.validation.images = recipe.validation.images.min(8);
        recipe.sample.samples = recipe.sample.samples.min(4);
        recipe.sample.steps = recipe.sample.steps.min(2);
        let split = &mut recipe.data.split;
        split.n_train = split.n_train.min(512.max(recipe.train.batch_size));
        split.held_out = split.held_out.min(128);
        recipe.monitor.samples = recipe.monitor.samples.min(4);
        recipe.monitor.sampling_steps = recipe.monitor.sampling_steps.min(2);
        if let Some(latent) = &mut recipe.latent {
            (latent.autoencoder_steps, latent.cache) = (Some(1), Some(kept.clone()));
        }
    }
    let request = Request {
        study: &small,
        folder: &folder,
        resume: false,
        command: "check".to_owned(),
        device,
        interrupt: &AtomicBool::new(false),
    };
    let outcome = run(&request);
    for leftover in [&folder, &kept] {
        let _ = fs::remove_dir_all(leftover); // in the temporary folder: it must not hide the outcome
    }
    outcome.map(|_| ())
}

/// The answer in a sentence, from the figures alone.
fn verdict(study: &Study, results: &[ArmResult]) -> String {
    let mean = |x: &dyn Fn(&ArmResult) -> f64, name: &str| {
        let of: Vec<f64> = results.iter().filter(|r| r.name == name).map(x).collect();
        of.iter().sum::<f64>() / of.len().max(1) as f64
    };
    let mut clauses = Vec::new();
    let (mut copies, mut makes) = (false, false);
    for (name, recipe) in &study.arms {
        let (f_mem, floor) = (mean(&|r| r.f_mem, name), mean(&|r| r.f_mem_floor, name));
        let does = if f_mem >= 0.5 {
            copies = true;
            "copies its training images"
        } else if f_mem <= floor + 0.02 {
            makes = true;
            "makes images that are not copies"
        } else {
            "copies some of its training images"
        };
        let n = recipe.data.split.n_train;
        clauses.push(format!("from {n} images it {does} (f_mem {f_mem:.2}, floor {floor:.2})"));
        if results.iter().any(|r| r.name == *name && r.adapter.is_some()) {
            let f1 = |of: fn(&AdapterResult) -> f64| mean(&|r| r.adapter.as_ref().map_or(0.0, of), name);
            let (ours, theirs) = (f1(|a| a.edge_f1), f1(|a| a.edge_f1_unconditional));
            clauses.push(format!(
                "with {name} its edges are where they should be with F1 {ours:.2}, without with {theirs:.2}"
            ));
        }
    }
    let answer = match (study.arms.len(), copies && makes) {
        (1, _) => "",
        (_, true) => "Yes: ",
        (_, false) => "Not here: ",
    };
    let seeds =
        if study.seeds.len() > 1 { format!(", mean of {} seeds", study.seeds.len()) } else { String::new() };
    format!("{answer}{}{seeds}.", clauses.join("; "))
}

/// `runs/<name>`, or the first of `runs/<name>-2`, `-3`, .. that is free.
pub fn free_folder(name: &str) -> PathBuf {
    let runs = project_root().join("runs");
    let candidates = std::iter::once(name.to_owned()).chain((2..).map(|i| format!("{name}-{i}")));
    candidates.map(|n| runs.join(n)).find(|p| !p.exists()).unwrap_or_else(|| runs.join(name))
}

/// The study and the folder of a run that was cut.
pub fn resumed(folder: &Path) -> Result<Study> {
    let recipe = folder.join("recipe.toml");
    if !recipe.is_file() {
        return Err(anyhow!(Error::file(folder, "is not a run folder: it holds no recipe.toml")));
    }
    Study::read(&recipe, &[]).with_context(|| format!("{}", recipe.display()))
}
