//! The report of a study whose tasks ran by themselves.

use super::store::{Submission, last_words};
use crate::progress::Failure;
use crate::recipe::Study;
use crate::result::StudyResult;
use crate::run::{conclude, read_json, resumed};
use crate::sample::recipe_of;
use crate::study::task::{DIVERGED, FAILED, Lock, RESULT, Task, holder, task_folder};
use crate::study::worker::check_bases;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Measures and reports what is there of a study, as its folder has it; tasks without a result are failures, with the reason.
pub fn finish(run: &Path) -> Result<StudyResult> {
    let study = resumed(run)?;
    let _lock = Lock::wait(run, Duration::from_secs(60), &AtomicBool::new(false))?.ok_or_else(|| {
        let reason = format!("another process ({}) runs this study now, and will report", holder(run));
        anyhow!(Error::file(run, reason))
    })?;
    gather(&study, run)
}

/// The same by who has the folder.
pub(super) fn gather(study: &Study, run: &Path) -> Result<StudyResult> {
    let mut tasks = Vec::new();
    for seed in &study.seeds {
        for (arm, _) in &study.arms {
            let folder = task_folder(run, arm, *seed);
            let planned = Task::read(&folder)?;
            tasks.push(planned.ok_or_else(|| {
                anyhow!(Error::file(
                    folder,
                    "was not planned: submit the study again, which plans what is missing"
                ))
            })?);
        }
    }
    let submissions = Submission::all(run)?;
    let mut failures = BTreeMap::new();
    for (i, task) in tasks.iter().enumerate() {
        if !task.folder(run).join(RESULT).is_file() {
            failures.insert(i, failure(task, run, &submissions)?);
        }
    }
    conclude(study, &tasks.iter().collect::<Vec<_>>(), run, &failures)
}

/// Why a task has no result.
fn failure(task: &Task, run: &Path, submissions: &[(PathBuf, Submission)]) -> Result<Failure> {
    let folder = task.folder(run);
    for told in [DIVERGED, FAILED] {
        if folder.join(told).is_file() {
            return read_json(&folder.join(told));
        }
    }
    let reason = if let Err(e) = check_bases(&recipe_of(&folder, &[])?, task, &folder) {
        format!("{e:#}")
    } else if Lock::take(&folder)?.is_none() {
        format!("has no result yet: process {} works on it", holder(&folder))
    } else {
        // Of the last submission that it was in.
        let logs = submissions.iter().rev().flat_map(|(place, submission)| {
            let arrays = submission.arrays.iter();
            arrays.filter_map(|array| {
                let number = array.tasks.iter().position(|name| *name == task.name())?;
                Some(place.join(array.log(number)))
            })
        });
        match logs.map(|log| (last_words(&log, &format!("{}: job ", task.name())), log)).next() {
            Some((Some(words), log)) => format!("has no result: {words} ({})", log.display()),
            _ => "has no result: its job was ended before it began".to_owned(),
        }
    };
    Ok(Failure { reason, diverged: false })
}
