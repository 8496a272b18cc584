//! Tasks side by side, each in a process of its own, as far as cores and memory allow.

use crate::machine::available_memory;
use crate::progress::{Bar, Failure, Message};
use crate::run::read_json;
use crate::study::plan::Plan;
use crate::study::task::{DIVERGED, RESULT, is_done};
use anyhow::{Context, Result};
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{available_parallelism, spawn};
use std::time::Duration;
use tch::Device;

/// How many tasks run side by side, and on how many threads each. A result depends on the threads to the last bits, so that
/// they are a function of the study and the machine, not of what is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Workers {
    /// Processes at a time.
    pub jobs: usize,
    /// Of libtorch, in each.
    pub threads: usize,
}

impl Workers {
    /// As many as there are cores and tasks, unless `jobs` says how many; one on a GPU. `OMP_NUM_THREADS`, where it is set,
    /// says how many threads each has.
    pub fn new(jobs: Option<usize>, tasks: usize, device: Device) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        let set = set_threads();
        let usual = if device == Device::Cpu { (cores / set.unwrap_or(1)).min(tasks) } else { 1 };
        let jobs = jobs.unwrap_or(usual).max(1);
        Self { jobs, threads: set.unwrap_or((cores / jobs).max(1)) }
    }

    /// Of a cluster: as many at a time as there are tasks, on one thread each, unless `jobs` and `OMP_NUM_THREADS` say
    /// otherwise. What this machine has is no matter.
    pub fn of_cluster(jobs: Option<usize>, tasks: usize) -> Self {
        Self { jobs: jobs.unwrap_or(tasks).max(1), threads: set_threads().unwrap_or(1) }
    }

    /// Gives a process its threads.
    pub(crate) fn limit(self, command: &mut Command) {
        for variable in ["OMP_NUM_THREADS", "RAYON_NUM_THREADS"] {
            command.env(variable, self.threads.to_string());
        }
    }
}

fn set_threads() -> Option<usize> {
    std::env::var("OMP_NUM_THREADS").ok().and_then(|n| n.parse().ok()).filter(|n| *n > 0)
}

/// This program, also when its file was replaced or removed since it began: all arms of a run are of one build.
pub(crate) fn own_program() -> Result<PathBuf> {
    let running = Path::new("/proc/self/exe"); // in a child before it becomes another program, that of its parent
    if running.exists() { Ok(running.to_owned()) } else { Ok(std::env::current_exe()?) }
}

/// As `--device` takes it.
pub(crate) fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(place) => format!("cuda:{place}"),
        _ => "cpu".to_owned(),
    }
}

/// Free memory must be this many times what an arm took before.
const RESERVE: f64 = 1.2;
/// Lines of a worker's errors that are kept.
const KEPT_LINES: usize = 20;

/// What threads tell of the processes.
enum News {
    Told(usize, Message),
    Complained(usize, String),
    /// Nothing more will be told.
    Silent(usize),
}

struct Running {
    child: Child,
    phase: String,
    complaints: Vec<String>,
    failure: Option<Failure>,
    /// Standard output and errors that have ended.
    ended: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Killed beside others, perhaps for memory: it gets another try with nothing beside it.
    WaitingAlone,
    Running,
    Ended,
}

/// Runs what is left of a plan.
pub(crate) struct Pool<'a> {
    plan: &'a Plan,
    run: &'a Path,
    workers: Workers,
    device: Device,
    bar: &'a Bar,
    states: Vec<State>,
    running: BTreeMap<usize, Running>,
    failures: BTreeMap<usize, Failure>,
    /// Largest memory of an arm's process, by its name.
    peaks: HashMap<&'a str, u64>,
    send: Sender<News>,
    receive: Receiver<News>,
}

impl<'a> Pool<'a> {
    pub(crate) fn new(plan: &'a Plan, run: &'a Path, workers: Workers, device: Device, bar: &'a Bar) -> Self {
        let (send, receive) = channel();
        let states = vec![State::Waiting; plan.tasks.len()];
        let (running, failures, peaks) = Default::default();
        Self { plan, run, workers, device, bar, states, running, failures, peaks, send, receive }
    }

    /// Runs all tasks; those that fail are given with the reason, by their place in the plan. None if a signal came.
    pub(crate) fn run(mut self, interrupt: &AtomicBool) -> Result<Option<BTreeMap<usize, Failure>>> {
        for (i, planned) in self.plan.tasks.iter().enumerate() {
            let folder = planned.task.folder(self.run);
            if is_done(&folder) {
                self.bar.skip(planned.recipe.train.steps);
                self.end(i)?;
            }
        }
        let mut told_to_stop = false;
        loop {
            let interrupted = interrupt.load(Ordering::Relaxed);
            if interrupted && !told_to_stop {
                self.running.values_mut().for_each(|r| drop(r.child.stdin.take()));
                told_to_stop = true;
            }
            if !interrupted {
                self.start_ready()?;
            }
            if self.running.is_empty() {
                let left = self.states.iter().any(|s| *s != State::Ended);
                return Ok((!(interrupted && left)).then_some(self.failures));
            }
            match self.receive.recv_timeout(Duration::from_millis(100)) {
                Ok(news) => self.hear(news)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// A task is ended: its result, or why there is none, is in its folder.
    fn end(&mut self, i: usize) -> Result<()> {
        let folder = self.plan.tasks[i].task.folder(self.run);
        if !folder.join(RESULT).is_file() {
            self.failures.insert(i, read_json(&folder.join(DIVERGED))?);
        }
        self.states[i] = State::Ended;
        Ok(())
    }

    fn start_ready(&mut self) -> Result<()> {
        for i in 0..self.states.len() {
            let full = self.running.len() >= self.workers.jobs;
            let alone = self.states[i] == State::WaitingAlone;
            if full || !(alone || self.states[i] == State::Waiting) {
                continue;
            }
            let after = &self.plan.tasks[i].after;
            if let Some(lost) = after.iter().find(|base| self.failures.contains_key(base)) {
                let reason = format!("its base {} has no result", self.plan.tasks[*lost].task.title());
                self.failures.insert(i, Failure { reason, diverged: false });
                self.states[i] = State::Ended;
                self.bar.skip(self.plan.tasks[i].recipe.train.steps);
                continue;
            }
            let ready = after.iter().all(|base| self.states[*base] == State::Ended);
            if ready && (self.running.is_empty() || (!alone && self.fits(i))) {
                self.start(i)?;
            }
        }
        Ok(())
    }

    /// Whether another process has room beside those that run. Nothing is known of the first: the next waits for its steps.
    fn fits(&self, i: usize) -> bool {
        let name = self.plan.tasks[i].task.arm.as_str();
        let largest = self.peaks.values().max();
        let Some(needed) = self.peaks.get(name).or(largest) else { return false };
        let Some(available) = available_memory() else { return true };
        // Those that started just now take theirs in a moment.
        let young =
            self.running.keys().filter(|r| !self.peaks.contains_key(self.plan.tasks[**r].task.arm.as_str()));
        let needed = *needed as f64 * RESERVE * (1 + young.count()) as f64;
        available as f64 >= needed
    }

    fn start(&mut self, i: usize) -> Result<()> {
        let planned = &self.plan.tasks[i];
        let folder = std::path::absolute(planned.task.folder(self.run))?;
        let mut command = Command::new(own_program()?);
        command.arg("arm").arg(&folder).arg("--device").arg(device_name(self.device));
        self.workers.limit(&mut command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0); // a signal from the terminal comes to us, who pass it on
        let mut child = command.spawn().context("a worker does not start")?;
        if let (Some(out), Some(err)) = (child.stdout.take(), child.stderr.take()) {
            listen(i, out, err, &self.send);
        }
        let phase = planned.task.title();
        let (complaints, failure, ended) = (Vec::new(), None, 0);
        self.running.insert(i, Running { child, phase, complaints, failure, ended });
        self.states[i] = State::Running;
        self.show();
        Ok(())
    }

    fn show(&self) {
        let phases: Vec<&str> = self.running.values().map(|r| r.phase.as_str()).collect();
        self.bar.phase(&phases.join(", "));
    }

    fn hear(&mut self, news: News) -> Result<()> {
        let i = match news {
            News::Told(i, message) => {
                let name = self.plan.tasks[i].task.arm.as_str();
                let Some(running) = self.running.get_mut(&i) else { return Ok(()) };
                match message {
                    Message::Failed(failure) => running.failure = Some(failure),
                    Message::Phase(phase) => {
                        running.phase = phase;
                        self.show();
                    }
                    message => {
                        if let Message::Steps { n: 1.., peak_rss_bytes } = message {
                            let peak = self.peaks.entry(name).or_default();
                            *peak = (*peak).max(peak_rss_bytes);
                        }
                        self.bar.apply(message);
                    }
                }
                return Ok(());
            }
            News::Complained(i, line) => {
                if let Some(running) = self.running.get_mut(&i) {
                    running.complaints.push(line);
                    let extra = running.complaints.len().saturating_sub(KEPT_LINES);
                    running.complaints.drain(..extra);
                }
                return Ok(());
            }
            News::Silent(i) => i,
        };
        let Some(running) = self.running.get_mut(&i) else { return Ok(()) };
        running.ended += 1;
        if running.ended < 2 {
            return Ok(());
        }
        let Some(mut running) = self.running.remove(&i) else { return Ok(()) };
        let status = running.child.wait()?;
        self.after(i, status, running)
    }

    /// What becomes of a task whose process has ended.
    fn after(&mut self, i: usize, status: ExitStatus, running: Running) -> Result<()> {
        let task = &self.plan.tasks[i].task;
        if is_done(&task.folder(self.run)) {
            self.end(i)?;
        } else if running.failure.is_none() && status.code() == Some(130) {
            self.states[i] = State::Waiting; // it was told to stop, and goes on another time
        } else {
            let failure = running.failure.unwrap_or_else(|| unexplained(status, &running.complaints));
            let memory = status.signal().is_some() || is_of_memory(&failure.reason);
            if memory && !self.running.is_empty() {
                self.bar.say(&format!("{}: {}; it will run again alone", task.title(), failure.reason));
                self.states[i] = State::WaitingAlone;
            } else {
                self.failures.insert(i, explained(failure));
                self.states[i] = State::Ended;
            }
        }
        if let Some(failure) = self.failures.get(&i) {
            self.bar.say(&format!("{}: {}", task.title(), failure.reason));
        }
        self.show();
        Ok(())
    }
}

const OF_MEMORY: [&str; 4] =
    ["not enough memory", "out of memory", "can't allocate memory", "memory allocation of"];

pub(super) fn is_of_memory(reason: &str) -> bool {
    OF_MEMORY.iter().any(|text| reason.contains(text))
}

/// libtorch's errors end with a page of C++, and where its allocator failed it has no remedy.
pub(super) fn explained(failure: Failure) -> Failure {
    let ends = ["\\nframe", "\nframe"].iter().filter_map(|end| failure.reason.find(end));
    let reason = failure.reason[..ends.min().unwrap_or(failure.reason.len())].to_owned();
    if !is_of_memory(&reason) {
        return Failure { reason, ..failure };
    }
    let starts = ["you tried to allocate", "memory allocation of"].iter().filter_map(|s| reason.find(s));
    let told = reason[starts.min().unwrap_or(0)..].split(". ").next().unwrap_or_default();
    let reason = format!(
        "needs more memory than there is ({told}): make train.batch_size, sample.batch_size or the model smaller"
    );
    Failure { reason, ..failure }
}

/// Of a process that could not say why it ended.
fn unexplained(status: ExitStatus, complaints: &[String]) -> Failure {
    let last = complaints.iter().rev().find(|line| !line.trim().is_empty());
    let reason = match (status.signal(), last) {
        (_, Some(line)) if is_of_memory(line) => line.clone(),
        (Some(9), _) => {
            "was killed (signal 9): by hand, or for want of memory; the same command tries again".to_owned()
        }
        (Some(signal), line) => format!("was ended by signal {signal}: {}", line.map_or("", String::as_str)),
        (None, line) => format!("ended with {status}: {}", line.map_or("", String::as_str)),
    };
    Failure { reason, diverged: false }
}

fn listen(i: usize, out: ChildStdout, err: ChildStderr, send: &Sender<News>) {
    // Nobody receives any more when the pool is gone: there is nothing to do about it.
    let told = send.clone();
    spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let news = match serde_json::from_str(&line) {
                Ok(message) => News::Told(i, message),
                Err(_) => News::Complained(i, line), // a library that prints
            };
            let _ = told.send(news);
        }
        let _ = told.send(News::Silent(i));
    });
    let complained = send.clone();
    spawn(move || {
        for line in BufReader::new(err).lines().map_while(Result::ok) {
            let _ = complained.send(News::Complained(i, line));
        }
        let _ = complained.send(News::Silent(i));
    });
}
