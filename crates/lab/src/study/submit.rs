//! Studies that run by themselves: array jobs of SLURM, or the same scripts on this machine.
//!
//! A run folder that was submitted holds besides:
//!
//! ```text
//! arms/<arm>-seed<seed>/
//!   failed.json                  why its last task failed
//! submit/
//!   heldout-<hash>               the program as it was
//!   1/                           a submission
//!     submission.json            its arrays, tasks and jobs
//!     array-1.sh, array-1.txt    an array job and its tasks, a name a line
//!     report.sh                  gathers what is there, when all have ended
//!     log/                       array-1_0.log, ..; they grow when a task goes on
//! ```

mod finish;
mod local;
mod scripts;
mod slurm;
mod standing;
mod store;

pub use finish::finish;
pub use local::execute;
pub use store::Executor;

use crate::result::StudyResult;
use crate::run::{Request, begin};
use crate::study::estimate::{Progress, progress};
use crate::study::plan::{Plan, Planned};
use crate::study::pool::{Workers, device_name};
use crate::study::task::{FAILED, code_version, is_done};
use anyhow::{Result, anyhow, bail};
use heldout_core::Error;
use heldout_train::write_atomically;
use scripts::{Script, asks_for_gpus, check_options, job_name, quoted, script_path};
use standing::{Survey, waiting};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use store::{Array, LOGS, REPORT, Submission};
use tch::Device;

/// What to submit, and to whom.
#[derive(Debug)]
pub struct SubmitRequest<'a> {
    /// The study and its folder.
    pub request: Request<'a>,
    /// Who runs it.
    pub executor: Executor,
    /// Tasks at a time, and the threads of each.
    pub workers: Workers,
    /// Further options of `sbatch`.
    pub options: &'a [String],
}

/// What came of it.
#[derive(Debug)]
pub enum Submitted {
    /// Tasks wait or run; which, and how to watch and end them, in lines for people.
    Waiting(String),
    /// Nothing was left to do; the report is made.
    Done(Box<StudyResult>),
    /// A signal came.
    Interrupted,
}

/// Where the tasks of a cluster compute, which a result depends on: what `--device` says, whatever this machine has; without
/// it a GPU, where the options of `sbatch` ask for one.
pub fn device_of_jobs(named: Option<Device>, options: &[String]) -> Result<Device> {
    match named {
        Some(device) => Ok(device),
        None if !asks_for_gpus(options) => Ok(Device::Cpu),
        None if tch::utils::has_cuda() => Ok(Device::Cuda(0)),
        None => {
            let reason = "asks for GPUs, and this libtorch computes on none: `cargo xtask setup --device cuda`, or say \
                          --device cpu";
            Err(Error::config("--sbatch", reason).into())
        }
    }
}

/// Tasks of one array; clusters allow 1001 numbers if they say nothing else.
const LARGEST_ARRAY: usize = 1000;

/// Plans the study, writes its scripts, and hands them over. What is done, or waits already, is left out.
pub fn submit(s: &SubmitRequest<'_>) -> Result<Submitted> {
    let Request { study, folder: run, .. } = s.request;
    check(s)?;
    if s.executor == Executor::Slurm {
        slurm::check()?;
    }
    let code = code_version()?;
    let waiting = waiting(run, s.executor, s.request.any_code, &code)?;
    let Some((plan, _lock)) = begin(&s.request, s.machine())? else { return Ok(Submitted::Interrupted) };
    let survey = Survey::of(&plan, run, &waiting, |planned| Ok(is_done(&planned.task.folder(run))))?;
    if survey.levels.is_empty() {
        return Ok(match survey.waits() {
            true => Submitted::Waiting(survey.left_out() + "nothing else is left to submit"),
            false => Submitted::Done(Box::new(finish::gather(study, run)?)),
        });
    }
    let folder = Submission::next(run);
    let mut submission = s.submission(&survey, code);
    store::make(&folder)?;
    let program = store::keep_program(run, &submission.code)?;
    for (path, text) in s.files(&submission, &folder)? {
        write_atomically(&path, text.as_bytes())?;
    }
    submission.write(&folder)?;
    for i in survey.levels.iter().flatten() {
        let failed = plan.tasks[*i].task.folder(run).join(FAILED);
        if failed.is_file() {
            fs::remove_file(&failed).map_err(Error::io(&failed))?; // of an attempt before
        }
    }
    let said = match s.executor {
        Executor::Slurm => {
            slurm::submit(&mut submission, &folder, &survey.jobs())?;
            told_of_jobs(&submission)
        }
        Executor::Local => told_of_process(&submission, local::start(&program, &folder)?),
    };
    let (logs, page) = (quoted(&folder.join(LOGS).to_string_lossy()), run.join("report.html"));
    Ok(Submitted::Waiting(format!(
        "{}{said}\nlogs:    tail -f {logs}/*\nresult:  {}; the same command submits again what has none then",
        survey.left_out(),
        page.display()
    )))
}

/// The scripts, and the commands that would submit them; nothing is made. None if a signal came.
pub fn submit_dry(s: &SubmitRequest<'_>) -> Result<Option<String>> {
    let Request { study, folder: run, device, interrupt, any_code, .. } = s.request;
    check(s)?;
    let Some(plan) = Plan::of(study, device, interrupt)? else { return Ok(None) };
    let done = |planned: &Planned| Ok(progress(planned, run, any_code)? == Progress::Done);
    let code = code_version()?;
    let waiting = waiting(run, s.executor, any_code, &code)?;
    let survey = Survey::of(&plan, run, &waiting, done)?;
    let mut said = survey.left_out();
    if survey.levels.is_empty() {
        return Ok(Some(said + "nothing else is left to submit"));
    }
    let folder = Submission::next(run);
    let submission = s.submission(&survey, code);
    let number = |array: &Array| Some(format!("JOB-OF-{}", array.name));
    for (path, text) in s.files(&submission, &folder)? {
        said += &format!("==> {}\n{text}", path.display());
        if s.executor == Executor::Local || path.extension().is_some_and(|e| e == "txt") {
            continue;
        }
        let place = submission.arrays.iter().position(|array| folder.join(array.script()) == path);
        let after = match place {
            Some(i) => submission.after(i, number),
            None => submission.arrays.iter().filter_map(number).chain(survey.jobs()).collect(),
        };
        said += &format!("# {}\n", slurm::command(&path, &after));
        said += &slurm::opinion(&text).map_or(String::new(), |opinion| opinion + "\n");
    }
    Ok(Some(said.trim_end().to_owned()))
}

fn check(s: &SubmitRequest<'_>) -> Result<()> {
    check_options(s.options)?;
    if s.executor == Executor::Local && !s.options.is_empty() {
        bail!(Error::config("--sbatch", "is for --submit slurm: leave it out"));
    }
    script_path(s.request.folder).map(drop)
}

impl SubmitRequest<'_> {
    /// What is known of the machines that it will run on.
    fn machine(&self) -> BTreeMap<String, String> {
        let device = self.request.device;
        match self.executor {
            Executor::Local => crate::machine::machine(device, Some(self.workers)),
            Executor::Slurm => BTreeMap::from([
                ("machines".to_owned(), "nodes of a SLURM cluster, which the logs name".to_owned()),
                ("libtorch threads".to_owned(), self.workers.threads.to_string()),
                ("device".to_owned(), device_name(device)),
            ]),
        }
    }

    fn submission(&self, survey: &Survey<'_>, code: String) -> Submission {
        let mut arrays: Vec<Array> = Vec::new();
        for (level, tasks) in survey.levels.iter().enumerate() {
            for tasks in tasks.chunks(LARGEST_ARRAY) {
                arrays.push(Array {
                    name: format!("array-{}", arrays.len() + 1),
                    level,
                    tasks: tasks.iter().map(|i| survey.plan.tasks[*i].task.name()).collect(),
                    after: survey.jobs_of_bases(tasks),
                    job: None,
                });
            }
        }
        let Workers { jobs, threads } = self.workers;
        Submission { executor: self.executor, code, jobs, threads, arrays, report: None }
    }

    /// Scripts and lists of tasks, in the order in which they are submitted.
    fn files(&self, submission: &Submission, folder: &Path) -> Result<Vec<(PathBuf, String)>> {
        let run = self.request.folder;
        let folder_text = script_path(folder)?;
        let here = std::env::current_dir()?;
        let here = here.to_str().ok_or_else(|| anyhow!("{}: is not UTF-8: go elsewhere", here.display()))?;
        let (program, run_text) = (script_path(&store::program(run, &submission.code))?, script_path(run)?);
        let name = job_name(&self.request.study.name);
        let logs = format!("{folder_text}/{LOGS}").replace('%', "%%");
        let script = Script {
            name: name.clone() + "-report",
            log: format!("{logs}/report.log"),
            threads: 1,
            array: None,
            options: self.options,
            directory: here,
            program: &program,
            run: &run_text,
            list: String::new(),
            device: None,
        };
        let mut files = Vec::new();
        for array in &submission.arrays {
            let (n, list) = (array.tasks.len(), format!("{}.txt", array.name));
            let at_a_time = if submission.jobs < n { format!("%{}", submission.jobs) } else { String::new() };
            let script = Script {
                name: name.clone(),
                log: format!("{logs}/{}_%a.log", array.name),
                threads: submission.threads,
                array: Some(format!("0-{}{at_a_time}", n - 1)),
                list: format!("{folder_text}/{list}"),
                device: Some(device_name(self.request.device)),
                ..script.clone()
            };
            files.push((folder.join(list), array.tasks.join("\n") + "\n"));
            files.push((folder.join(array.script()), script.text()?));
        }
        files.push((folder.join(REPORT), script.text()?));
        Ok(files)
    }
}

fn told_of_jobs(submission: &Submission) -> String {
    let mut said = String::new();
    let mut numbers = Vec::new();
    for (i, array) in submission.arrays.iter().enumerate() {
        let job = array.job.clone().unwrap_or_default();
        let after = submission.after(i, |array| array.job.clone());
        let after = if after.is_empty() { String::new() } else { format!(", after {}", after.join(" and ")) };
        said += &format!("job {job}: {} tasks{after}\n", array.tasks.len());
        numbers.push(job);
    }
    let report = submission.report.clone().unwrap_or_default();
    said += &format!("job {report}: the report, after all\n");
    numbers.push(report);
    said += &format!("watch:   squeue --array --jobs={}\n", numbers.join(","));
    said + &format!("cancel:  scancel {}", numbers.join(" "))
}

fn told_of_process(submission: &Submission, pid: u32) -> String {
    let n: usize = submission.arrays.iter().map(|array| array.tasks.len()).sum();
    let Submission { jobs, threads, .. } = submission;
    format!(
        "process {pid}: {n} tasks, {jobs} at a time on {threads} threads each, then the report\ncancel:  kill {pid}"
    )
}
