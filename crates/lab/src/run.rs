//! A study from its recipe to its report.

use crate::compare::compare;
use crate::machine::{machine, versions};
use crate::progress::{Bar, Failure};
use crate::recipe::Study;
use crate::record::RunInfo;
use crate::report::{self, counted_records};
use crate::result::{ArmFailure, ArmResult, StudyResult};
use crate::sink::{RECORDS, lines, read_records};
use crate::study::{Lock, Plan, Pool, RESULT, Workers, holder, run_here};
use crate::verdict::verdict;
use crate::{dirs::project_root, record::Record};
use anyhow::{Context, Result, anyhow};
use heldout_core::Error;
use heldout_train::write_atomically;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use tch::Device;

/// What to run, and where.
#[derive(Debug)]
pub struct Request<'a> {
    /// The study.
    pub study: &'a Study,
    /// The run folder. What is done in it already stays; what was cut goes on; the rest is made.
    pub folder: &'a Path,
    /// Whether results of other builds of this program count.
    pub any_code: bool,
    /// The command that re-makes the run.
    pub command: String,
    /// Where tensors live.
    pub device: Device,
    /// Processes for the arms; none: one arm after another in this process, of which the first that fails ends all.
    pub workers: Option<Workers>,
    /// Set by signals.
    pub interrupt: &'a AtomicBool,
}

/// How a run ended.
#[derive(Debug)]
pub enum RunEnding {
    /// All arms are done, or have failed.
    Done(Box<StudyResult>),
    /// A signal came; the state is saved.
    Interrupted,
}

/// `study.json`.
pub(crate) const STUDY: &str = "study.json";

/// Runs what is missing of every arm with every seed, then measures and reports.
pub fn run(request: &Request<'_>) -> Result<RunEnding> {
    let Request { study, folder, device, interrupt, .. } = *request;
    check_folder(study, folder)?;
    // Everything that can be wrong with the data is found before a folder is made.
    let Some(plan) = Plan::of(study, device, interrupt)? else { return Ok(RunEnding::Interrupted) };
    let _lock = begin(request, &plan)?;
    for planned in &plan.tasks {
        planned.task.place(folder, planned.recipe, request.any_code)?;
    }
    let bar = Bar::new(plan.steps());
    let failures = match request.workers {
        Some(workers) => Pool::new(&plan, folder, workers, device, &bar).run(interrupt)?,
        None => run_here(&plan, folder, device, &bar, interrupt)?.then(BTreeMap::new),
    };
    bar.finish();
    let Some(failures) = failures else { return Ok(RunEnding::Interrupted) };
    let result = gather(study, &plan, folder, &failures)?;
    write_atomically(&folder.join(STUDY), (serde_json::to_string_pretty(&result)? + "\n").as_bytes())?;
    write_atomically(&folder.join(RECORDS), lines(&records(folder, &plan)?)?.as_bytes())?;
    report::write(folder)?;
    Ok(RunEnding::Done(Box::new(result)))
}

/// The records of all arms, one after another.
fn records(folder: &Path, plan: &Plan<'_>) -> Result<Vec<Record>> {
    let all = plan.tasks.iter().map(|p| read_records(&p.task.folder(folder).join(RECORDS)));
    Ok(all.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn gather(
    study: &Study,
    plan: &Plan<'_>,
    folder: &Path,
    failures: &BTreeMap<usize, Failure>,
) -> Result<StudyResult> {
    let failed = |i: &usize| {
        let task = &plan.tasks[*i].task;
        let Failure { reason, diverged } = failures[i].clone();
        ArmFailure { name: task.arm.clone(), seed: task.seed, reason, diverged }
    };
    let failures: Vec<ArmFailure> = failures.keys().map(failed).collect();
    let done = plan.tasks.iter().map(|p| p.task.folder(folder).join(RESULT)).filter(|path| path.is_file());
    let arms: Vec<ArmResult> = done.map(|path| read_json(&path)).collect::<Result<_>>()?;
    let names: Vec<&str> = study.arms.iter().map(|(name, _)| name.as_str()).collect();
    let comparison = study.compare.as_ref().map(|c| compare(c, &names, &arms)).transpose()?;
    let analysis = study.analysis.as_ref().map(|a| a.run(&arms, &counted_records(folder)?)).transpose()?;
    let verdict = verdict(study, &arms, comparison.as_ref(), analysis.as_ref());
    let (recipe, question) = (study.name.clone(), study.question.clone());
    Ok(StudyResult { format: 2, recipe, question, verdict, arms, comparison, analysis, failures })
}

/// A folder is free, or holds a run of this study.
fn check_folder(study: &Study, folder: &Path) -> Result<()> {
    let recipe = folder.join("recipe.toml");
    if recipe.is_file() {
        let there = resumed(folder)?.name;
        if there != study.name {
            let reason = format!("holds the study `{there}`, not `{}`: choose another --out", study.name);
            return Err(anyhow!(Error::file(folder, reason)));
        }
    } else if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(anyhow!(Error::file(folder, "is not empty, and holds no study: choose another --out")));
    }
    Ok(())
}

fn begin(request: &Request<'_>, plan: &Plan<'_>) -> Result<Lock> {
    let Request { study, folder, .. } = request;
    let existed = folder.exists();
    let info = RunInfo {
        recipe: study.name.clone(),
        question: study.question.clone(),
        command: request.command.clone(),
        arms: study.arms.iter().map(|(name, _)| name.clone()).collect(),
        seeds: study.seeds.clone(),
        data: plan.data.clone(),
        versions: versions(),
        machine: machine(request.device, request.workers),
    };
    let write = || -> Result<Lock> {
        fs::create_dir_all(folder).map_err(Error::io(*folder))?;
        let lock = Lock::take(folder)?.ok_or_else(|| {
            let reason = format!("another process ({}) runs this study now", holder(folder));
            anyhow!(Error::file(*folder, reason))
        })?;
        write_atomically(&folder.join("recipe.toml"), study.resolved.as_bytes())?;
        write_atomically(&folder.join("run.json"), serde_json::to_string_pretty(&info)?.as_bytes())?;
        Ok(lock)
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
        any_code: false,
        command: "check".to_owned(),
        device,
        workers: None,
        interrupt: &AtomicBool::new(false),
    };
    let outcome = run(&request);
    for leftover in [&folder, &kept] {
        let _ = fs::remove_dir_all(leftover); // in the temporary folder: it must not hide the outcome
    }
    outcome.map(|_| ())
}

/// `runs/<name>` for a recipe as it stands; for one that was changed on the command line the first of `runs/<name>-2`, `-3`,
/// .. that is free or holds just this study.
pub fn study_folder(study: &Study, changed: bool) -> PathBuf {
    let runs = project_root().join("runs");
    let name = &study.name;
    if !changed {
        return runs.join(name);
    }
    let same = |p: &PathBuf| !p.exists() || resumed(p).is_ok_and(|there| there.resolved == study.resolved);
    (2..).map(|i| runs.join(format!("{name}-{i}"))).find(same).unwrap_or_else(|| runs.join(name))
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
