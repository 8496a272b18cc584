//! The scripts of a submission on this machine, without SLURM.

use super::store::{Array, LOGS, REPORT, Submission, last_words, submissions};
use crate::study::task::{Lock, holder};
use anyhow::{Context, Result, anyhow, bail};
use heldout_core::Error;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use sysinfo::{Pid, ProcessesToUpdate, Signal, System};

const PAUSE: Duration = Duration::from_millis(100);
/// Time for the process to take its folder.
const START: Duration = Duration::from_secs(30);

fn log(path: &Path) -> Result<File> {
    Ok(OpenOptions::new().create(true).append(true).open(path).map_err(Error::io(path))?)
}

fn attach(command: &mut Command, path: &Path) -> Result<()> {
    let log = log(path)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    command.process_group(0); // signals of the terminal are not for it
    Ok(())
}

/// Starts the process that runs a submission; it is at work when this returns. Gives its number.
pub(super) fn start(program: &Path, folder: &Path) -> Result<u32> {
    let said = folder.join(LOGS).join("executor.log");
    let mut command = Command::new(program);
    command.arg("execute").arg(folder);
    attach(&mut command, &said)?;
    let mut child = command.spawn().with_context(|| format!("{} does not start", program.display()))?;
    let since = Instant::now();
    while holder(folder) != child.id().to_string() {
        if let Some(status) = child.try_wait()? {
            bail!("{}: {status}: {}", program.display(), last_words(&said, "").unwrap_or_default());
        }
        if since.elapsed() > START {
            bail!("{} does not begin; see {}", program.display(), said.display());
        }
        sleep(PAUSE);
    }
    Ok(child.id())
}

/// Runs the submission in `folder`: level after level, then the report. False if a signal came: tasks were told to stop, and
/// have saved their state.
pub fn execute(folder: &Path, interrupt: &AtomicBool) -> Result<bool> {
    let _lock = Lock::take(folder)?.ok_or_else(|| {
        anyhow!(Error::file(folder, format!("another process ({}) runs it", holder(folder))))
    })?;
    let submission = Submission::read(folder)?;
    wait_for_earlier(folder, interrupt)?;
    let mut next = 0;
    while let Some(level) = submission.arrays.iter().map(|a| a.level).filter(|l| *l >= next).min() {
        let arrays = submission.arrays.iter().enumerate().filter(|(_, array)| array.level == level);
        let tasks = arrays.flat_map(|(n, array)| (0..array.tasks.len()).map(move |i| (n, array, i)));
        let jobs = tasks.map(|(n, array, i)| Job::task(folder, (n + 1, array), i, submission.threads));
        run_all(&jobs.collect::<Vec<_>>(), submission.jobs, interrupt)?;
        next = level + 1;
    }
    if !interrupt.load(Ordering::Relaxed) {
        run_all(&[Job::report(folder)], 1, interrupt)?;
    }
    Ok(!interrupt.load(Ordering::Relaxed))
}

/// A submission begins when those before it have ended.
fn wait_for_earlier(folder: &Path, interrupt: &AtomicBool) -> Result<()> {
    let Some(run) = folder.parent().and_then(Path::parent) else { return Ok(()) };
    debug_assert!(folder.starts_with(submissions(run)));
    for (earlier, _) in Submission::all(run)?.into_iter().take_while(|(earlier, _)| earlier != folder) {
        drop(Lock::wait(&earlier, Duration::MAX, interrupt)?);
    }
    Ok(())
}

/// A script with what SLURM would tell it.
struct Job {
    title: String,
    script: PathBuf,
    log: PathBuf,
    variables: Vec<(&'static str, String)>,
}

impl Job {
    fn task(folder: &Path, (number, array): (usize, &Array), i: usize, threads: usize) -> Self {
        Self {
            title: array.tasks[i].clone(),
            script: folder.join(array.script()),
            log: folder.join(array.log(i)),
            variables: vec![
                ("SLURM_ARRAY_JOB_ID", number.to_string()),
                ("SLURM_ARRAY_TASK_ID", i.to_string()),
                ("SLURM_CPUS_PER_TASK", threads.to_string()),
            ],
        }
    }

    fn report(folder: &Path) -> Self {
        Self {
            title: "report".to_owned(),
            script: folder.join(REPORT),
            log: folder.join(LOGS).join("report.log"),
            variables: Vec::new(),
        }
    }

    fn start(&self) -> Result<Child> {
        let mut command = Command::new("bash");
        command.arg(&self.script).envs(self.variables.iter().map(|(name, value)| (name, value)));
        attach(&mut command, &self.log)?;
        command.spawn().context("bash does not start")
    }
}

/// Runs jobs, some at a time; a signal stops those that run and begins no more.
fn run_all(jobs: &[Job], at_a_time: usize, interrupt: &AtomicBool) -> Result<()> {
    let mut waiting = jobs.iter();
    let mut running: Vec<(&Job, Child)> = Vec::new();
    let mut told = false;
    loop {
        let interrupted = interrupt.load(Ordering::Relaxed);
        while !interrupted && running.len() < at_a_time.max(1) {
            let Some(job) = waiting.next() else { break };
            running.push((job, job.start()?));
        }
        if interrupted && !told {
            running.iter().for_each(|(_, child)| terminate(child));
            told = true;
        }
        if running.is_empty() {
            return Ok(());
        }
        sleep(PAUSE);
        let mut left = Vec::new();
        for (job, mut child) in running {
            match child.try_wait()? {
                Some(status) => eprintln!("{}: {status}", job.title),
                None => left.push((job, child)),
            }
        }
        running = left;
    }
}

fn terminate(child: &Child) {
    let pid = Pid::from_u32(child.id());
    if let Ok(mut system) = System::new() {
        system.refresh_processes(ProcessesToUpdate::Some(&[pid]), false);
        let _ = system.process(pid).map(|process| process.kill_with(Signal::Term)); // it may have ended just now
    }
}
