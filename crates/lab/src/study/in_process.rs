//! Tasks one after another in this process.

use crate::progress::Bar;
use crate::study::plan::Plan;
use crate::study::task::is_done;
use crate::study::worker::{WorkerEnding, run_task};
use anyhow::{Context, Result};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tch::Device;

/// Runs what is left of the plan; the first error ends it. False if a signal came.
pub(crate) fn run_here(
    plan: &Plan,
    run: &Path,
    device: Device,
    bar: &Bar,
    interrupt: &AtomicBool,
) -> Result<bool> {
    for planned in &plan.tasks {
        let folder = planned.task.folder(run);
        if is_done(&folder) {
            bar.skip(planned.recipe.train.steps);
            continue;
        }
        let ending =
            run_task(&folder, device, bar, interrupt, Duration::MAX).with_context(|| planned.task.title())?;
        if ending == WorkerEnding::Interrupted {
            return Ok(false);
        }
    }
    Ok(true)
}
