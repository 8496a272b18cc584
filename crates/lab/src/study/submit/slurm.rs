//! SLURM's own commands.

use super::scripts::quoted;
use super::store::{REPORT, Submission};
use anyhow::{Context, Result, anyhow, bail};
use heldout_core::Error;
use std::collections::HashSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Refuses to go on where there is no SLURM.
pub(super) fn check() -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&path).any(|folder| folder.join("sbatch").is_file()) {
        return Ok(());
    }
    let reason = "slurm: there is no sbatch on PATH: use a machine of the cluster, or --submit local, or add --dry-run to \
                  see the scripts";
    Err(anyhow!(Error::config("--submit", reason)))
}

fn output(command: &mut Command) -> Result<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).output().with_context(|| format!("{program} does not start"))
}

/// What a command of SLURM says, or why it refuses.
fn said(command: &mut Command) -> Result<String> {
    let out = output(command)?;
    if !out.status.success() {
        let why = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; "); // it names itself
        let program = command.get_program().to_string_lossy().into_owned();
        bail!("{}", if why.is_empty() { format!("{program}: {}", out.status) } else { why });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Numbers of all tasks of our user's arrays that wait or run, as `7_0`.
pub(super) fn queue() -> Result<HashSet<String>> {
    let queue = said(Command::new("squeue").args(["--me", "--noheader", "--array", "--format=%F_%K"]));
    let queue = queue.context(
        "jobs of this study were submitted to SLURM before, and whether they still wait cannot be asked: use a machine of \
         the cluster",
    )?;
    Ok(queue.lines().map(|line| line.trim().to_owned()).collect())
}

/// The arguments of `sbatch` before the script: it begins when all these jobs have ended, however they did.
pub(super) fn arguments(after: &[String]) -> Vec<String> {
    let mut arguments = vec!["--parsable".to_owned()];
    if !after.is_empty() {
        arguments.push(format!("--dependency=afterany:{}", after.join(":")));
        arguments.push("--kill-on-invalid-dep=yes".to_owned());
    }
    arguments
}

/// Submits a script; gives the job's number.
fn sbatch(script: &Path, after: &[String]) -> Result<String> {
    let said = said(Command::new("sbatch").args(arguments(after)).arg(script))?;
    let number = said.split_whitespace().last().and_then(|word| word.split(';').next()).unwrap_or_default();
    if number.is_empty() || !number.chars().all(|c| c.is_ascii_digit()) {
        bail!("sbatch: no number of a job is in `{}`", said.trim());
    }
    Ok(number.to_owned())
}

/// Submits all scripts of a submission and writes the jobs' numbers down. If one is refused, those before it are cancelled.
pub(super) fn submit(submission: &mut Submission, folder: &Path, queued: &[String]) -> Result<()> {
    submit_all(submission, folder, queued).inspect_err(|_| {
        let jobs: Vec<&String> = submission.arrays.iter().filter_map(|array| array.job.as_ref()).collect();
        if !jobs.is_empty() {
            let _ = output(Command::new("scancel").args(jobs)); // the error that is reported is the first one
        }
        let _ = std::fs::remove_dir_all(folder);
    })
}

fn submit_all(submission: &mut Submission, folder: &Path, queued: &[String]) -> Result<()> {
    for i in 0..submission.arrays.len() {
        let after = submission.after(i, |array| array.job.clone());
        submission.arrays[i].job = Some(sbatch(&folder.join(submission.arrays[i].script()), &after)?);
        submission.write(folder)?;
    }
    let mut after: Vec<String> = submission.arrays.iter().filter_map(|array| array.job.clone()).collect();
    after.extend(queued.iter().cloned());
    submission.report = Some(sbatch(&folder.join(REPORT), &after)?);
    submission.write(folder)
}

/// What `sbatch` thinks of a script, where there is one: in a comment.
pub(super) fn opinion(script: &str) -> Option<String> {
    use std::io::Write;
    check().ok()?;
    let mut command = Command::new("sbatch");
    command.arg("--test-only").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().ok()?;
    child.stdin.take()?.write_all(script.as_bytes()).ok()?;
    let out = child.wait_with_output().ok()?;
    let said = String::from_utf8_lossy(&out.stderr).trim().replace('\n', "; ");
    Some(format!(
        "# {}",
        if said.is_empty() { "sbatch --test-only has no objections".to_owned() } else { said }
    ))
}

/// The command that a person could give instead, for the dry run.
pub(super) fn command(script: &Path, after: &[String]) -> String {
    let arguments = arguments(after);
    format!("sbatch {} {}", arguments.join(" "), quoted(&script.to_string_lossy()))
}
