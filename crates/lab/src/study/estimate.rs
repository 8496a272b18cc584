//! What is left of a study, and what it will take, from a few steps of every arm.

use crate::arm::Arm;
use crate::assemble::{generate, guided};
use crate::cost::Running;
use crate::dirs::project_root;
use crate::machine::peak_rss_bytes;
use crate::progress::Failure;
use crate::recipe::{Recipe, Study};
use crate::sample::recipe_of;
use crate::study::plan::{Plan, Planned};
use crate::study::pool::{Workers, device_name, explained, is_of_memory, own_program};
use crate::study::task::{Task, is_done};
use crate::study::worker::limit_memory;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tch::{Device, Tensor};

/// What one arm takes with one seed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Of a training step.
    pub step_seconds: f64,
    /// Of one image through the network, without gradient.
    pub image_seconds: f64,
    /// Of everything.
    pub seconds: f64,
    /// Largest memory of the process.
    pub peak_rss_bytes: u64,
}

/// How far one arm is with one seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// It has a result, or never will have one.
    Done,
    /// It was cut.
    Begun,
    /// It is not there, or is there of another recipe, other data or another program.
    Missing,
}

/// One line of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimate {
    /// The arm.
    pub arm: String,
    /// Its seed.
    pub seed: u64,
    /// How far it is.
    pub progress: Progress,
    /// Its steps.
    pub steps: u64,
    /// What it takes from its start, or why that cannot be told; the same for all seeds of an arm, and none for an arm of which
    /// all are done.
    pub calibration: Option<std::result::Result<Calibration, String>>,
}

/// Steps that are timed.
const STEPS: u64 = 4;
/// Sampling steps that are timed.
const SAMPLING_STEPS: usize = 3;

/// Measures a few steps of the arm in `folder`, in this process.
pub fn calibrate(folder: &Path, device: Device) -> Result<Calibration> {
    if device == Device::Cpu {
        limit_memory();
    }
    let task = Task::read(folder)?.with_context(|| format!("{}: no task.json", folder.display()))?;
    let recipe = recipe_of(folder, &[])?;
    let arm = Arm::open(&task.arm, task.seed, &recipe, &project_root().join("datasets"), device)?;
    let mut running = Running { parts: arm.parts()?, total: recipe.train.steps, step: 0 };
    running.seconds(1)?;
    let step_seconds = running.seconds(STEPS)?;
    let told = arm.sample_conditions(recipe.sample.batch_size)?;
    let denoiser = guided(running.parts.model.as_ref(), &told, None)?;
    let mut config = recipe.sample.clone();
    config.steps = SAMPLING_STEPS;
    let n = config.batch_size as u64;
    let draw = || -> Result<f64> {
        let started = Instant::now();
        let x = generate(denoiser.as_ref(), &config, (&arm.space, &|range| told.of(range)), 0..n, 0, device)?;
        let _ = Tensor::double_value(&x.mean(tch::Kind::Float), &[]); // a device has done its work by then
        Ok(started.elapsed().as_secs_f64() / (n * SAMPLING_STEPS as u64) as f64)
    };
    draw()?;
    let image_seconds = draw()?;
    let seconds = recipe.train.stop_after.unwrap_or(recipe.train.steps) as f64 * step_seconds
        + images(&recipe) as f64 * image_seconds;
    Ok(Calibration { step_seconds, image_seconds, seconds, peak_rss_bytes: peak_rss_bytes() })
}

/// Images that go through the network without a gradient: in validations, looks, and the final samples.
fn images(recipe: &Recipe) -> u64 {
    let steps = recipe.train.stop_after.unwrap_or(recipe.train.steps);
    let (validation, monitor, sample) = (&recipe.validation, &recipe.monitor, &recipe.sample);
    let of_validation = 2 * validation.images * validation.log_snr.len();
    let of_look = monitor.samples * monitor.sampling_steps;
    steps.div_ceil(validation.every) * of_validation as u64
        + (steps.saturating_sub(1) / monitor.every) * of_look as u64
        + (sample.samples * sample.steps) as u64
}

/// The plan of a study with what is left to do in `run`, each arm measured in a process of its own. None if a signal came.
pub fn estimates(
    study: &Study,
    run: &Path,
    device: Device,
    workers: Workers,
    any_code: bool,
    interrupt: &AtomicBool,
) -> Result<Option<Vec<Estimate>>> {
    let Some(plan) = Plan::of(study, device, interrupt)? else { return Ok(None) };
    let scratch = std::env::temp_dir().join(format!("heldout-plan-{}", std::process::id()));
    let measured = measure(&plan, run, &scratch, device, workers, any_code);
    let _ = fs::remove_dir_all(&scratch); // in the temporary folder: it must not hide the outcome
    measured.map(Some)
}

fn measure(
    plan: &Plan,
    run: &Path,
    scratch: &Path,
    device: Device,
    workers: Workers,
    any_code: bool,
) -> Result<Vec<Estimate>> {
    let mut lines: Vec<Estimate> = Vec::new();
    for planned in &plan.tasks {
        let progress = progress(planned, run, any_code)?;
        let arm = planned.task.arm.as_str();
        let known = lines.iter().find(|l| l.arm == arm).and_then(|l| l.calibration.clone());
        let calibration = match (&progress, known) {
            (Progress::Done, known) => known,
            (_, Some(known)) => Some(known),
            (_, None) => Some(in_process_of_its_own(planned, scratch, device, workers)?),
        };
        let steps = planned.recipe.train.stop_after.unwrap_or(planned.recipe.train.steps);
        lines.push(Estimate { arm: arm.to_owned(), seed: planned.task.seed, progress, steps, calibration });
    }
    Ok(lines)
}

pub(super) fn progress(planned: &Planned, run: &Path, any_code: bool) -> Result<Progress> {
    let folder = planned.task.folder(run);
    let same = |there: &Task| there.key == planned.task.key && (any_code || there.code == planned.task.code);
    Ok(match Task::read(&folder)? {
        Some(there) if same(&there) => {
            if is_done(&folder) {
                Progress::Done
            } else {
                Progress::Begun
            }
        }
        _ => Progress::Missing,
    })
}

fn in_process_of_its_own(
    planned: &Planned,
    scratch: &Path,
    device: Device,
    workers: Workers,
) -> Result<std::result::Result<Calibration, String>> {
    planned.task.place(scratch, &planned.recipe, false)?;
    let folder = planned.task.folder(scratch);
    let mut command = Command::new(own_program()?);
    command.arg("arm").arg(&folder).args(["--calibrate", "--device"]).arg(device_name(device));
    workers.limit(&mut command);
    let output = command.stdin(Stdio::null()).output().context("a worker does not start")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let find = |which: fn(&str) -> bool| said.lines().find(|line| which(line));
        // Memory that is lacking ends in a panic.
        let why = find(|line| line.starts_with("error: ")).or(find(is_of_memory)).or(said.lines().last());
        let why = why.unwrap_or_default();
        let failure = Failure { reason: why.trim_start_matches("error: ").to_owned(), diverged: false };
        return Ok(Err(explained(failure).reason));
    }
    Ok(Ok(serde_json::from_slice(&output.stdout)?))
}
