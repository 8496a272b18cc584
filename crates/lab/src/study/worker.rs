//! One arm with one seed, from its folder alone: what a process of its own, or a task of a cluster, does.

use crate::adapter::Bases;
use crate::arm::{Arm, ArmEnding};
use crate::dirs::project_root;
use crate::machine::total_memory;
use crate::progress::{Bar, Failure, Message};
use crate::recipe::{parse, read_table};
use crate::study::task::{ARM, DIVERGED, Lock, Task, is_done};
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_train::write_atomically;
use rlimit::{Resource, setrlimit};
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{sleep, spawn};
use std::time::Duration;
use tch::Device;
use toml::Value;

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
    set_hook(Box::new(|_| {})); // told below
    if device == Device::Cpu {
        limit_memory();
    }
    let bar = Bar::told();
    let ending = catch_unwind(AssertUnwindSafe(|| run_task(folder, device, &bar, interrupt)));
    bar.finish();
    let reason = match ending {
        Ok(Ok(ending)) => return Ok(ending),
        Ok(Err(e)) => Failure { diverged: diverged(&e), reason: format!("{e:#}") },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Failure { reason: text.unwrap_or_else(|| "panicked".to_owned()), diverged: false }
        }
    };
    bar.apply(Message::Failed(reason));
    Ok(WorkerEnding::Failed)
}

/// Lets no more be allocated than the machine has: where the system promises more, as Linux does, it would end some process
/// instead of refusing.
fn limit_memory() {
    let all = total_memory();
    if all > 0 {
        let _ = setrlimit(Resource::DATA, all, all); // without a limit it goes as far as it goes
    }
}

fn diverged(error: &anyhow::Error) -> bool {
    error.chain().any(|c| matches!(c.downcast_ref::<Error>(), Some(Error::Diverged { .. })))
}

/// Runs the task in `folder`, unless it is done.
pub(crate) fn run_task(
    folder: &Path,
    device: Device,
    bar: &Bar,
    interrupt: &AtomicBool,
) -> Result<WorkerEnding> {
    let task = Task::read(folder)?.ok_or_else(|| {
        anyhow!(Error::file(folder, "is not the folder of an arm that was planned: it has no task.json"))
    })?;
    // Whoever had it before may be saving its state still.
    let _lock = loop {
        if let Some(lock) = Lock::take(folder)? {
            break lock;
        }
        if interrupt.load(Ordering::Relaxed) {
            return Ok(WorkerEnding::Interrupted);
        }
        sleep(Duration::from_millis(50));
    };
    if is_done(folder) {
        return Ok(WorkerEnding::Done);
    }
    let recipe = parse(Value::Table(read_table(&folder.join(ARM))?))?;
    let mut arm = Arm::open(&task.arm, task.seed, &recipe, &project_root().join("datasets"), device)?;
    arm.bases = recipe.adapter.as_ref().map(|adapter| Bases::new(adapter, folder, task.seed));
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
