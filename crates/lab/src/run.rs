//! A study from its recipe to its report.

use crate::analysis::Evidence;
use crate::compare::compare;
use crate::machine::{machine, versions};
use crate::progress::{Bar, Failure};
use crate::recipe::Study;
use crate::record::RunInfo;
use crate::report::{self, counted_records};
use crate::result::{ArmFailure, ArmResult, StudyResult};
use crate::sink::{RECORDS, lines, read_records};
use crate::study::{Lock, Plan, Pool, RESULT, Task, Workers, holder, run_here};
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
    let Some((plan, _lock)) = begin(request, machine(device, request.workers))? else {
        return Ok(RunEnding::Interrupted);
    };
    let bar = Bar::new(plan.steps());
    let failures = match request.workers {
        Some(workers) => Pool::new(&plan, folder, workers, device, &bar).run(interrupt)?,
        None => run_here(&plan, folder, device, &bar, interrupt)?.then(BTreeMap::new),
    };
    bar.finish();
    let Some(failures) = failures else { return Ok(RunEnding::Interrupted) };
    let tasks: Vec<&Task> = plan.tasks.iter().map(|planned| &planned.task).collect();
    Ok(RunEnding::Done(Box::new(conclude(study, &tasks, folder, &failures)?)))
}

/// Makes the folder ready for its tasks, and keeps it. None if a signal came.
pub(crate) fn begin<'a>(
    request: &Request<'a>,
    machine: BTreeMap<String, String>,
) -> Result<Option<(Plan, Lock)>> {
    let Request { study, folder, .. } = *request;
    check_folder(study, folder)?;
    // Everything that can be wrong with the data is found before a folder is made.
    let Some(plan) = Plan::of(study, request.device, request.interrupt)? else { return Ok(None) };
    let lock = take_folder(request, &plan, machine)?;
    for planned in &plan.tasks {
        planned.task.place(folder, &planned.recipe, request.any_code)?;
    }
    Ok(Some((plan, lock)))
}

/// Measures what is there of `tasks` and writes it down: `study.json`, `metrics.jsonl`, the report. `failures` are by place
/// in `tasks`.
pub(crate) fn conclude(
    study: &Study,
    tasks: &[&Task],
    folder: &Path,
    failures: &BTreeMap<usize, Failure>,
) -> Result<StudyResult> {
    let result = gather(study, tasks, folder, failures)?;
    write_atomically(&folder.join(STUDY), (serde_json::to_string_pretty(&result)? + "\n").as_bytes())?;
    write_atomically(&folder.join(RECORDS), lines(&records(folder, tasks)?)?.as_bytes())?;
    report::write(folder)?;
    Ok(result)
}

/// The records of all arms, one after another.
fn records(folder: &Path, tasks: &[&Task]) -> Result<Vec<Record>> {
    let all = tasks.iter().map(|task| read_records(&task.folder(folder).join(RECORDS)));
    Ok(all.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}

fn gather(
    study: &Study,
    tasks: &[&Task],
    folder: &Path,
    failures: &BTreeMap<usize, Failure>,
) -> Result<StudyResult> {
    let failed = |i: &usize| {
        let task = tasks[*i];
        let Failure { reason, diverged } = failures[i].clone();
        ArmFailure { name: task.arm.clone(), seed: task.seed, reason, diverged }
    };
    let failures: Vec<ArmFailure> = failures.keys().map(failed).collect();
    let done = tasks.iter().map(|task| task.folder(folder).join(RESULT)).filter(|path| path.is_file());
    let arms: Vec<ArmResult> = done.map(|path| read_json(&path)).collect::<Result<_>>()?;
    let names: Vec<&str> = study.arms.iter().map(|(name, _)| name.as_str()).collect();
    let comparison = study.compare.as_ref().map(|c| compare(c, &names, &arms)).transpose()?;
    let records = counted_records(folder)?;
    let evidence = Evidence { study, run: folder, arms: &arms, records: &records };
    let analysis = study.analysis.as_ref().map(|a| a.run(&evidence)).transpose()?;
    let verdict = verdict(study, &arms, comparison.as_ref(), analysis.as_ref(), &failures);
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

fn take_folder(request: &Request<'_>, plan: &Plan, machine: BTreeMap<String, String>) -> Result<Lock> {
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
        machine,
    };
    fs::create_dir_all(folder).map_err(Error::io(*folder))?;
    let lock = Lock::take(folder)?.ok_or_else(|| {
        let reason = format!("another process ({}) runs this study now", holder(folder));
        anyhow!(Error::file(*folder, reason))
    })?;
    let write = || -> Result<()> {
        if !plan.is_done(folder, request.any_code)? {
            for answer in [STUDY, report::PAGE] {
                remove_if_there(&folder.join(answer))?; // of other arms
            }
        }
        write_atomically(&folder.join("recipe.toml"), study.resolved.as_bytes())?;
        Ok(write_atomically(&folder.join("run.json"), serde_json::to_string_pretty(&info)?.as_bytes())?)
    };
    // Only who holds the lock may take the folder away again.
    let written = write().inspect_err(|_| {
        if !existed {
            let _ = fs::remove_dir_all(folder); // the error that is reported is the first one
        }
    });
    written.map(|()| lock)
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => Ok(other.map_err(Error::io(path))?),
    }
}

pub(crate) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    serde_json::from_str(&text).map_err(|e| anyhow!(Error::file(path, format!("damaged: {e}"))))
}

/// Builds every object of every arm of a study in its smallest size and runs it, its evaluation and its report, in a folder
/// of its own that is removed.
pub fn check(study: &Study, device: Device) -> Result<()> {
    let small = study.clone().smoke()?;
    let folder = std::env::temp_dir().join(format!("heldout-check-{}", std::process::id()));
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
    let caches = small.arms.iter().filter_map(|(_, recipe)| recipe.latent.as_ref()?.cache.clone());
    for leftover in std::iter::once(folder.clone()).chain(caches) {
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
