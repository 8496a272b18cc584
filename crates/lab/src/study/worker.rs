//! One arm with one seed, from its folder alone: what a process of its own, or a task of a cluster, does.

use crate::adapter::{Base, Bases};
use crate::arm::{Arm, ArmEnding};
use crate::dirs::project_root;
use crate::machine::total_memory;
use crate::progress::{Bar, Failure, Message};
use crate::recipe::Recipe;
use crate::sample::recipe_of;
use crate::study::pool::explained;
use crate::study::task::{
    DIVERGED, FAILED, Lock, RESULT, Task, code_version, holder, is_done, task_name, task_title,
};
use anyhow::{Result, anyhow, bail};
use heldout_core::Error;
use heldout_train::write_atomically;
use rlimit::{Resource, setrlimit};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::spawn;
use std::time::Duration;
use tch::Device;

/// How long a task of a cluster, whose waiting is paid for, waits for a process that has its folder.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerEnding {
    /// The arm has a result.
    Done,
    /// It has none; why was told.
    Failed,
    /// A signal came, or nobody listens any more; the state is saved.
    Interrupted,
}

/// Runs the arm in `folder` as far as it is not done, and tells of it on the standard output, in JSON lines. It stops, its
/// state saved, when the standard input ends.
pub fn work(folder: &Path, device: Device, interrupt: &Arc<AtomicBool>) -> Result<WorkerEnding> {
    let listened = interrupt.clone();
    spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink()); // any end of it is the end
        listened.store(true, Ordering::Relaxed);
    });
    let bar = Bar::told();
    let ending = guarded(device, || run_task(folder, device, &bar, interrupt, Duration::MAX));
    bar.finish();
    Ok(ending.unwrap_or_else(|failure| {
        bar.apply(Message::Failed(failure));
        WorkerEnding::Failed
    }))
}

/// The same for a task that nobody listens to, as that of a cluster: it tells of itself in lines for people, on the standard
/// error, and stops at signals alone. Why it fails is kept in the folder. The program must be the one that was planned with.
pub fn work_alone(folder: &Path, device: Device, interrupt: &AtomicBool) -> Result<WorkerEnding> {
    let kept = folder.join(FAILED);
    if kept.is_file() {
        fs::remove_file(&kept).map_err(Error::io(&kept))?; // of an attempt before
    }
    let ending = guarded(device, || {
        check_code(folder)?;
        let bar = Bar::new(recipe_of(folder, &[])?.train.steps);
        run_task(folder, device, &bar, interrupt, PATIENCE).inspect(|_| bar.finish())
    });
    let failure = match ending.map_err(explained) {
        Ok(ending) => return Ok(ending),
        Err(failure) => failure,
    };
    eprintln!("error: {}", failure.reason);
    // If another process works on it, why this one does not is of no interest.
    if let Ok(Some(_lock)) = Lock::take(folder) {
        write_atomically(&kept, serde_json::to_string_pretty(&failure)?.as_bytes())?;
    }
    Ok(WorkerEnding::Failed)
}

/// Runs what may fail or panic, within the memory of the machine.
fn guarded(
    device: Device,
    run: impl FnOnce() -> Result<WorkerEnding>,
) -> std::result::Result<WorkerEnding, Failure> {
    set_hook(Box::new(|_| {})); // told below
    if device == Device::Cpu {
        limit_memory();
    }
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(ending) => ending.map_err(|e| Failure { diverged: diverged(&e), reason: format!("{e:#}") }),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Err(Failure { reason: text.unwrap_or_else(|| "panicked".to_owned()), diverged: false })
        }
    }
}

/// A result is named by the program that made it, which may have been built anew since the task was planned.
fn check_code(folder: &Path) -> Result<()> {
    let task = task_of(folder)?;
    if task.code.contains(&code_version()?) {
        return Ok(());
    }
    let reason = "was planned with another build of this program: submit the study again";
    Err(anyhow!(Error::file(folder, reason)))
}

/// Lets no more be allocated than the machine has: where the system promises more, as Linux does, it would end some process
/// instead of refusing.
pub(super) fn limit_memory() {
    let all = total_memory();
    if all > 0 {
        let _ = setrlimit(Resource::DATA, all, all); // without a limit it goes as far as it goes
    }
}

fn diverged(error: &anyhow::Error) -> bool {
    error.chain().any(|c| matches!(c.downcast_ref::<Error>(), Some(Error::Diverged { .. })))
}

fn task_of(folder: &Path) -> Result<Task> {
    Task::read(folder)?.ok_or_else(|| {
        anyhow!(Error::file(folder, "is not the folder of an arm that was planned: it has no task.json"))
    })
}

/// A base that was cut has weights too, but not those that were asked for.
pub(super) fn check_bases(recipe: &Recipe, task: &Task, folder: &Path) -> Result<()> {
    for (_, base) in recipe.bases() {
        let Base::Arm { arm } = base else { continue };
        let base = folder.with_file_name(task_name(arm, task.seed));
        if !base.join(RESULT).is_file() {
            bail!("its base {} has no result", task_title(arm, task.seed));
        }
    }
    Ok(())
}

/// Runs the task in `folder`, unless it is done; waits at most `patience` for a process that has the folder.
pub(crate) fn run_task(
    folder: &Path,
    device: Device,
    bar: &Bar,
    interrupt: &AtomicBool,
    patience: Duration,
) -> Result<WorkerEnding> {
    let task = task_of(folder)?;
    let Some(_lock) = Lock::wait(folder, patience, interrupt)? else {
        if interrupt.load(Ordering::Relaxed) {
            return Ok(WorkerEnding::Interrupted);
        }
        let reason = format!("another process ({}) works on it", holder(folder));
        return Err(anyhow!(Error::file(folder, reason)));
    };
    if is_done(folder) {
        return Ok(WorkerEnding::Done);
    }
    let recipe = recipe_of(folder, &[])?;
    check_bases(&recipe, &task, folder)?;
    let mut arm = Arm::open(&task.arm, task.seed, &recipe, &project_root().join("datasets"), device)?;
    arm.bases = Some(Bases::new(recipe.bases(), folder, task.seed));
    match arm.run(folder, bar, interrupt) {
        Ok(ArmEnding::Done) => Ok(WorkerEnding::Done),
        Ok(ArmEnding::Interrupted) => Ok(WorkerEnding::Interrupted),
        Err(e) => {
            if diverged(&e) {
                let failure = Failure { reason: format!("{e:#}"), diverged: true };
                let text = serde_json::to_string_pretty(&failure)?;
                write_atomically(&folder.join(DIVERGED), text.as_bytes())?;
            }
            Err(e)
        }
    }
}
