//! How the tasks of a study stand before a submission: what is left, and what waits already.

use super::slurm;
use super::store::{Array, Executor, Submission};
use crate::study::plan::{Plan, Planned};
use crate::study::task::{Lock, RESULT, Task, holder};
use anyhow::{Result, bail};
use heldout_core::Error;
use std::collections::HashMap;
use std::path::Path;

/// How a task stands.
#[derive(Debug, Clone, PartialEq)]
enum Standing {
    Done,
    /// It never will have a result.
    Lost,
    /// It waits or runs.
    Queued(Waiting),
    /// This process works on it, which was not submitted.
    Taken(String),
    Left,
}

/// Where a task waits or runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Waiting {
    /// The array job; empty for a process on this machine.
    job: String,
    title: String,
}

/// All tasks of a plan, and which of them are to be submitted.
pub(super) struct Survey<'a> {
    pub(super) plan: &'a Plan,
    standings: Vec<Standing>,
    /// Places of the tasks that are left: those of a level are built on none of their own or a higher level.
    pub(super) levels: Vec<Vec<usize>>,
}

impl<'a> Survey<'a> {
    /// `done` says of a task whether it has ended.
    pub(super) fn of(
        plan: &'a Plan,
        run: &Path,
        waiting: &HashMap<String, Waiting>,
        done: impl Fn(&Planned) -> Result<bool>,
    ) -> Result<Self> {
        let mut standings = Vec::new();
        for planned in &plan.tasks {
            standings.push(match done(planned)? {
                true if planned.task.folder(run).join(RESULT).is_file() => Standing::Done,
                true => Standing::Lost,
                false => standing(&planned.task, run, waiting)?,
            });
        }
        let levels = levels(plan, &mut standings)?;
        Ok(Self { plan, standings, levels })
    }

    /// Whether a task that is not done waits or runs.
    pub(super) fn waits(&self) -> bool {
        self.standings.iter().any(|s| matches!(s, Standing::Queued(_) | Standing::Taken(_)))
    }

    /// Jobs of SLURM that tasks wait in already.
    pub(super) fn jobs(&self) -> Vec<String> {
        self.jobs_among(0..self.standings.len())
    }

    /// Jobs of SLURM that bases of these tasks wait in already.
    pub(super) fn jobs_of_bases(&self, tasks: &[usize]) -> Vec<String> {
        self.jobs_among(tasks.iter().flat_map(|i| self.plan.tasks[*i].after.iter().copied()))
    }

    fn jobs_among(&self, tasks: impl Iterator<Item = usize>) -> Vec<String> {
        let mut jobs: Vec<String> = Vec::new();
        for i in tasks {
            match &self.standings[i] {
                Standing::Queued(Waiting { job, .. }) if !job.is_empty() && !jobs.contains(job) => {
                    jobs.push(job.clone());
                }
                _ => {}
            }
        }
        jobs
    }

    /// What is not submitted, and why, in lines.
    pub(super) fn left_out(&self) -> String {
        let count = |of: Standing| self.standings.iter().filter(|s| **s == of).count();
        let mut said = String::new();
        for (n, what) in
            [(count(Standing::Done), "done"), (count(Standing::Lost), "without hope of a result")]
        {
            if n > 0 {
                said += &format!("left out: {n} that {} {what}\n", if n == 1 { "is" } else { "are" });
            }
        }
        for (planned, standing) in self.plan.tasks.iter().zip(&self.standings) {
            let why = match standing {
                Standing::Queued(Waiting { title, .. }) => format!("waits or runs already, as {title}"),
                Standing::Taken(pid) => format!("process {pid} works on it"),
                Standing::Done | Standing::Lost | Standing::Left => continue,
            };
            said += &format!("left out: {}: {why}\n", planned.task.title());
        }
        said
    }
}

/// Of a task that has not ended.
fn standing(task: &Task, run: &Path, waiting: &HashMap<String, Waiting>) -> Result<Standing> {
    let folder = task.folder(run);
    if let Some(waiting) = waiting.get(&task.name()) {
        return Ok(Standing::Queued(waiting.clone()));
    }
    if folder.is_dir() && Lock::take(&folder)?.is_none() {
        return Ok(Standing::Taken(holder(&folder)));
    }
    Ok(Standing::Left)
}

/// Tasks of earlier submissions that wait or run, by name. Refuses to go on where they could not do what they wait for: with
/// another executor, and, unless `any_code`, with another program.
pub(super) fn waiting(
    run: &Path,
    executor: Executor,
    any_code: bool,
    code: &str,
) -> Result<HashMap<String, Waiting>> {
    let mut found = HashMap::new();
    let mut queue = None;
    for (folder, submission) in Submission::all(run)? {
        let open: Vec<(&Array, usize, &str)> = submission.open(run).collect();
        let here = submission.executor == Executor::Local;
        if open.is_empty() || (here && !submission.is_running(&folder)?) {
            continue;
        }
        for (array, number, task) in open {
            let (job, title) = match &array.job {
                _ if here => (String::new(), format!("process {}", holder(&folder))),
                None => continue, // it was never submitted
                Some(job) => (job.clone(), format!("job {job}_{number}")),
            };
            if !here {
                let queue = match &queue {
                    Some(queue) => queue,
                    None => queue.insert(slurm::queue()?),
                };
                if !queue.contains(&format!("{job}_{number}")) {
                    continue;
                }
            }
            if submission.executor != executor {
                let reason = format!("{task} waits already as {title}: end that first, or submit it there");
                bail!(Error::file(&folder, reason));
            }
            if submission.code != code && !any_code {
                let reason = format!(
                    "{task} waits already as {title}, for another build of this program: end that, or add --any-code"
                );
                bail!(Error::file(&folder, reason));
            }
            found.insert(task.to_owned(), Waiting { job, title });
        }
    }
    Ok(found)
}

fn levels(plan: &Plan, standings: &mut [Standing]) -> Result<Vec<Vec<usize>>> {
    let mut levels: Vec<Vec<usize>> = Vec::new();
    let mut level_of: HashMap<usize, usize> = HashMap::new();
    for (i, planned) in plan.tasks.iter().enumerate() {
        if standings[i] != Standing::Left {
            continue;
        }
        let mut level = 0;
        for base in &planned.after {
            match &standings[*base] {
                Standing::Lost => standings[i] = Standing::Lost,
                Standing::Taken(pid) => {
                    let title = plan.tasks[*base].task.title();
                    bail!(
                        "process {pid} works on {title}, which others are built on: wait for it, or end it"
                    );
                }
                _ => level = level.max(level_of.get(base).map_or(0, |l| l + 1)),
            }
        }
        if standings[i] == Standing::Left {
            level_of.insert(i, level);
            levels.resize(levels.len().max(level + 1), Vec::new());
            levels[level].push(i);
        }
    }
    Ok(levels)
}
