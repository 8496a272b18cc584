//! The scripts of jobs.

use anyhow::{Context, Result, anyhow};
use heldout_core::Error;
use minijinja::{Environment, UndefinedBehavior, value::Serde};
use serde::Serialize;
use std::path::Path;

/// What a script says.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Script<'a> {
    /// Of the job: letters, digits, `-`, `_`.
    pub(super) name: String,
    /// Where its output goes, in SLURM's patterns.
    pub(super) log: String,
    pub(super) threads: usize,
    /// Numbers of its tasks, as `0-3%2`; none for the report.
    pub(super) array: Option<String>,
    /// Further options of `sbatch`; they win.
    pub(super) options: &'a [String],
    /// Where it runs.
    pub(super) directory: &'a str,
    pub(super) program: &'a str,
    pub(super) run: &'a str,
    /// The list of its tasks, a name a line.
    pub(super) list: String,
    pub(super) device: Option<String>,
}

impl Script<'_> {
    pub(super) fn text(&self) -> Result<String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_filter("directive", |text: String| directive(&text));
        environment.add_filter("quoted", |text: String| quoted(&text));
        environment.add_template("job.sh", include_str!("job.sh"))?;
        let text = environment.get_template("job.sh")?.render(Serde(self)).context("the template job.sh")?;
        Ok(text + "\n")
    }
}

/// As the shell reads it.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// One argument on a line that `sbatch` reads: a `\` is its way to write `\` and `"`, between `"` alone.
fn directive(argument: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=/.,:%+@".contains(c);
    if argument.chars().all(plain) {
        return argument.to_owned();
    }
    format!("\"{}\"", argument.replace('\\', r"\\").replace('"', "\\\""))
}

/// A name for a job, of any text.
pub(super) fn job_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).collect()
}

/// A path for scripts, absolute. SLURM reads `\` in the name of a log as the end of its patterns.
pub(super) fn script_path(path: &Path) -> Result<String> {
    let absolute = std::path::absolute(path).map_err(Error::io(path))?;
    match absolute.to_str() {
        Some(text) if !text.contains(['\\', '\n', '\r']) => Ok(text.to_owned()),
        _ => {
            let reason = "holds characters that no script of SLURM can: choose another --out";
            Err(anyhow!(Error::file(absolute, reason)))
        }
    }
}

/// Options of `sbatch` that the scripts say themselves.
const OWN: [&str; 7] = ["--array", "--dependency", "--output", "--error", "--open-mode", "--wrap", "--chdir"];
const OWN_SHORT: [&str; 5] = ["-a", "-d", "-o", "-e", "-D"];

/// Whether a job with these options gets GPUs, as far as they say.
pub(super) fn asks_for_gpus(options: &[String]) -> bool {
    options.iter().any(|option| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let counted = name.starts_with("--gpus") || (name.starts_with("-G") && !name.starts_with("--"));
        counted || (name == "--gres" && value.contains("gpu"))
    })
}

/// Refuses what cannot stand in a script.
pub(super) fn check_options(options: &[String]) -> Result<()> {
    for option in options {
        let refuse = |reason: &str| Err(anyhow!(Error::config(format!("--sbatch {option:?}"), reason)));
        let name = option.split('=').next().unwrap_or_default();
        if !option.starts_with('-') || name.contains(' ') || option.contains(['\n', '\r']) {
            return refuse("is not one option of sbatch, as in --sbatch=--partition=gpu");
        }
        let short = OWN_SHORT.iter().any(|own| option.starts_with(own) && !option.starts_with("--"));
        if short || OWN.contains(&name) {
            return refuse("is said by the scripts themselves: leave it out (--out and --jobs change them)");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn paths_are_quoted_for_the_shell() {
        for path in ["plain", "a b", "it's \"quoted\" $HOME `x` * # %", "'", "--help"] {
            let script = format!("printf %s {}", quoted(path));
            let out = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(out.stdout).unwrap(), path);
        }
    }

    #[test]
    fn directives_are_quoted_as_sbatch_reads_them() {
        assert_eq!(directive("--array=0-3%2"), "--array=0-3%2");
        assert_eq!(directive("--output=/a b's \"c\" #1/x"), r##""--output=/a b's \"c\" #1/x""##);
    }

    #[test]
    fn options_that_ask_for_gpus_are_known() {
        let asks = |option: &str| asks_for_gpus(&["--time=1:00".to_owned(), option.to_owned()]);
        for gpus in ["--gres=gpu", "--gres=tmp:1,gpu:a100:2", "--gpus=1", "--gpus-per-task=1", "-G1"] {
            assert!(asks(gpus), "{gpus}");
        }
        for none in ["--partition=gpu", "--gres=tmp:1", "--comment=-G1"] {
            assert!(!asks(none), "{none}");
        }
    }

    #[test]
    fn options_that_would_break_the_scripts_are_refused() {
        let check = |option: &str| check_options(&[option.to_owned()]);
        for good in ["--partition=gpu", "-pgpu", "--gres=gpu:1", "--exclusive", "--comment=a b"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in
            ["--array=0-3", "-a0", "--dependency=afterok:1", "gpu", "-p gpu", "--mem=1G\n#SBATCH --wrap", ""]
        {
            let said = check(bad).unwrap_err().to_string();
            assert!(said.contains("--sbatch"), "{said}");
        }
    }
}
