//! `experiment --submit`, and the hidden commands that its jobs run.

use crate::args::{Execute, Experiment, device_here};
use crate::{chosen, interruptible, print_outcome};
use anyhow::Result;
use heldout_lab::{
    Executor, Request, SubmitRequest, Submitted, WorkerEnding, Workers, device_of_jobs, execute, finish,
    submit, submit_dry, work_alone,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tch::Device;

impl Experiment {
    /// Hands the study over to `executor`, or says what would be handed over.
    pub(crate) fn submit(self, executor: Executor) -> Result<ExitCode> {
        let (device, jobs) = (self.options.device, self.options.jobs.map(usize::from));
        let (study, folder, any_code) = chosen(&self.recipe, self.options, Ok)?;
        let interrupt = interruptible()?;
        let device = match (executor, device) {
            (Executor::Slurm, device) => device_of_jobs(device, &self.sbatch)?,
            (Executor::Local, device) => device_here(device)?,
        };
        let tasks = study.arms.len() * study.seeds.len();
        let request = SubmitRequest {
            request: Request {
                study: &study,
                folder: &folder,
                any_code,
                command: crate::command_line(),
                device,
                workers: None,
                interrupt: &interrupt,
            },
            executor,
            workers: match executor {
                Executor::Slurm => Workers::of_cluster(jobs, tasks),
                Executor::Local => Workers::new(jobs, tasks, device),
            },
            options: &self.sbatch,
        };
        if self.dry_run {
            let Some(scripts) = submit_dry(&request)? else { return Ok(ExitCode::from(130)) };
            println!("{scripts}");
            return Ok(ExitCode::SUCCESS);
        }
        match submit(&request)? {
            Submitted::Waiting(said) => {
                println!("{said}");
                Ok(ExitCode::SUCCESS)
            }
            Submitted::Done(result) => Ok(report(&result, &folder)),
            Submitted::Interrupted => Ok(ExitCode::from(130)),
        }
    }
}

fn report(result: &heldout_lab::StudyResult, folder: &Path) -> ExitCode {
    let code = print_outcome(result);
    println!("{}", folder.join("report.html").display());
    code
}

/// Gathers what the jobs of a run left.
pub(crate) fn finish_run(run: &Path) -> Result<ExitCode> {
    Ok(report(&finish(run)?, run))
}

/// Runs an arm for a job. SLURM may say twice that a job ends: that must not keep its state from being saved.
pub(crate) fn run_alone(folder: &Path, device: Device) -> Result<WorkerEnding> {
    let interrupt = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register(signal, interrupt.clone())?;
    }
    work_alone(folder, device, &interrupt)
}

impl Execute {
    /// Runs a submission on this machine, whatever becomes of the terminal.
    pub(crate) fn run(&self) -> Result<ExitCode> {
        flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
        let whole = execute(&self.submission, &*interruptible()?)?;
        Ok(if whole { ExitCode::SUCCESS } else { ExitCode::from(130) })
    }
}
