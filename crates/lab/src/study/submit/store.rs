//! What was submitted: `submit/N/submission.json`.

use crate::run::read_json;
use crate::study::pool::own_program;
use crate::study::task::{Lock, is_done};
use anyhow::{Context, Result};
use heldout_core::Error;
use heldout_train::write_atomically;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

/// Who runs the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// SLURM, by its `sbatch`.
    Slurm,
    /// A process in the background on this machine, with the same scripts.
    Local,
}

/// One submission.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Submission {
    pub(super) executor: Executor,
    /// SHA-256 of the program.
    pub(super) code: String,
    /// Tasks at a time.
    pub(super) jobs: usize,
    /// Of each task.
    pub(super) threads: usize,
    pub(super) arrays: Vec<Array>,
    /// The job of the report, where SLURM runs it.
    pub(super) report: Option<String>,
}

/// Tasks of one array job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Array {
    /// `array-1`, of which the script, the list of tasks and the logs are called.
    pub(super) name: String,
    /// Those of lower levels have ended before.
    pub(super) level: usize,
    /// Names of tasks, by their number.
    pub(super) tasks: Vec<String>,
    /// Jobs of earlier submissions that have ended before.
    pub(super) after: Vec<String>,
    pub(super) job: Option<String>,
}

impl Array {
    /// The file name of its script.
    pub(super) fn script(&self) -> String {
        format!("{}.sh", self.name)
    }

    /// The log of a task, from the folder of the submission.
    pub(super) fn log(&self, task: impl std::fmt::Display) -> PathBuf {
        Path::new(LOGS).join(format!("{}_{task}.log", self.name))
    }
}

/// Submissions of a run.
const FOLDER: &str = "submit";
/// Output of all jobs.
pub(super) const LOGS: &str = "log";
/// The report's script.
pub(super) const REPORT: &str = "report.sh";
/// The list in the folder of a submission.
const FILE: &str = "submission.json";

/// Where the submissions of a run are.
pub(super) fn submissions(run: &Path) -> PathBuf {
    run.join(FOLDER)
}

impl Submission {
    pub(super) fn read(folder: &Path) -> Result<Self> {
        read_json(&folder.join(FILE))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        Ok(write_atomically(&folder.join(FILE), serde_json::to_string_pretty(self)?.as_bytes())?)
    }

    /// Those of a run, the first before the others, each with its folder.
    pub(super) fn all(run: &Path) -> Result<Vec<(PathBuf, Self)>> {
        let mut numbers = numbers(run);
        numbers.sort_unstable();
        let folders = numbers.into_iter().map(|n| submissions(run).join(n.to_string()));
        let whole = folders.filter(|folder| folder.join(FILE).is_file());
        whole.map(|folder| Ok((folder.clone(), Self::read(&folder)?))).collect()
    }

    /// The folder of the next one.
    pub(super) fn next(run: &Path) -> PathBuf {
        let last = numbers(run).into_iter().max().unwrap_or(0);
        submissions(run).join((last + 1).to_string())
    }

    /// Tasks that have not ended, each with its array and its number in it.
    pub(super) fn open<'a>(&'a self, run: &'a Path) -> impl Iterator<Item = (&'a Array, usize, &'a str)> {
        let all = self.arrays.iter();
        let all =
            all.flat_map(|array| array.tasks.iter().enumerate().map(move |(i, t)| (array, i, t.as_str())));
        all.filter(|(_, _, task)| !is_done(&run.join("arms").join(task)))
    }

    /// Jobs that have ended before the array at place `i` begins; `job` gives those of its own submission.
    pub(super) fn after(&self, i: usize, job: impl Fn(&Array) -> Option<String>) -> Vec<String> {
        let lower = self.arrays.iter().filter(|array| array.level < self.arrays[i].level);
        lower.filter_map(job).chain(self.arrays[i].after.iter().cloned()).collect()
    }

    /// Whether the process that runs it here is at work; SLURM has none.
    pub(super) fn is_running(&self, folder: &Path) -> Result<bool> {
        Ok(self.executor == Executor::Local && Lock::take(folder)?.is_none())
    }
}

fn numbers(run: &Path) -> Vec<u64> {
    let entries = fs::read_dir(submissions(run)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The end of a log: what SLURM or the program said last of why it ends, after the last line that begins with `attempt`.
pub(super) fn last_words(log: &Path, attempt: &str) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(log).ok()?).into_owned();
    let lines = || {
        let all = text.lines().rev().take_while(|line| attempt.is_empty() || !line.starts_with(attempt));
        all.filter(|line| !line.trim().is_empty())
    };
    let told = lines().find(|line| line.starts_with("error: ") || line.starts_with("slurmstepd"));
    told.or_else(|| lines().next()).map(str::to_owned)
}

/// Keeps the program as it is now: a queue may be longer than the time until it is built anew.
pub(super) fn keep_program(run: &Path, code: &str) -> Result<PathBuf> {
    let path = program(run, code);
    if !path.is_file() {
        let ours = own_program()?;
        let aside = path.with_extension("writing");
        fs::copy(&ours, &aside).map_err(Error::io(&aside))?;
        fs::rename(&aside, &path).map_err(Error::io(&path))?;
    }
    Ok(path)
}

/// Where a program is kept.
pub(super) fn program(run: &Path, code: &str) -> PathBuf {
    submissions(run).join(format!("heldout-{}", &code[..12.min(code.len())]))
}

/// Makes the folder of a submission.
pub(super) fn make(folder: &Path) -> Result<()> {
    let logs = folder.join(LOGS);
    fs::create_dir_all(&logs).map_err(Error::io(&logs)).context("--submit")
}
