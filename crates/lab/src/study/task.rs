//! The folder of one arm with one seed: what it is a function of, and where it lies.

use crate::hash::hex;
use crate::recipe::Recipe;
use crate::run::read_json;
use crate::study::pool::own_program;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_train::write_atomically;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// `task.json`: what a result is a function of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Task {
    /// Name of the arm.
    pub(crate) arm: String,
    /// Of all its draws.
    pub(crate) seed: u64,
    /// SHA-256 of recipe, seed, data and bases.
    pub(crate) key: String,
    /// SHA-256 of every program that worked on it: one, unless it was told to go on with another's.
    pub(crate) code: Vec<String>,
}

/// Whose turn it is.
const LOCK: &str = "lock";
const TASK: &str = "task.json";
/// The arm's recipe.
pub(crate) const ARM: &str = "arm.toml";
/// Its result.
pub(crate) const RESULT: &str = "arm.json";
/// Why there is none, and never will be.
pub(crate) const DIVERGED: &str = "diverged.json";
/// Why the last attempt of a worker that nobody listened to has none.
pub(crate) const FAILED: &str = "failed.json";
/// Results that another recipe, other data or another program gave.
const SUPERSEDED: &str = "superseded";

/// Digits of a hash in the name of a folder.
const DIGITS: usize = 12;

impl Task {
    /// Name of its folder.
    pub(crate) fn name(&self) -> String {
        task_name(&self.arm, self.seed)
    }

    /// As a person reads it.
    pub(crate) fn title(&self) -> String {
        task_title(&self.arm, self.seed)
    }

    /// Where it is in a run.
    pub(crate) fn folder(&self, run: &Path) -> PathBuf {
        task_folder(run, &self.arm, self.seed)
    }

    /// Reads `task.json` of a folder, if there is one.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(TASK);
        path.is_file().then(|| read_json(&path)).transpose()
    }

    fn superseded(&self, run: &Path) -> PathBuf {
        let short = |hash: &str| hash[..DIGITS.min(hash.len())].to_owned();
        let code: Vec<String> = self.code.iter().map(|c| short(c)).collect();
        run.join(SUPERSEDED).join(format!("{}-{}-{}", self.name(), short(&self.key), code.join("-")))
    }

    /// Makes its folder ready: what is there stays if it is the same, with `any_code` from whatever program; otherwise it is
    /// put aside, and what was put aside before comes back if it is this.
    pub(crate) fn place(&self, run: &Path, recipe: &Recipe, any_code: bool) -> Result<()> {
        let folder = self.folder(run);
        if let Some(there) = Self::read(&folder)? {
            if there.key == self.key && (there.code == self.code || any_code) {
                let mut code = there.code.clone();
                code.extend(self.code.iter().filter(|c| !there.code.contains(c)).cloned());
                // A result that is done stays the work of those who made it.
                return if is_done(&folder) || code == there.code {
                    Ok(())
                } else {
                    Self { code, ..there }.write(&folder)
                };
            }
            self.keep_out(&folder)?;
            move_over(&folder, &there.superseded(run))?;
        } else if folder.exists() {
            let unknown = Self { key: "unknown".to_owned(), code: Vec::new(), ..self.clone() };
            move_over(&folder, &unknown.superseded(run))?;
        }
        let before = self.superseded(run);
        if before.exists() {
            return move_over(&before, &folder);
        }
        fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
        write_atomically(&folder.join(ARM), toml::to_string(recipe)?.as_bytes())?;
        self.write(&folder)
    }

    /// A folder is not moved from under a process that works in it; one that was told to stop gets time to do so.
    fn keep_out(&self, folder: &Path) -> Result<()> {
        if Lock::wait(folder, Duration::from_secs(20), &AtomicBool::new(false))?.is_some() {
            return Ok(());
        }
        let reason = format!(
            "another process ({}) works on {} as it was planned before: end it, or choose another --out",
            holder(folder),
            self.title()
        );
        Err(anyhow!(Error::file(folder, reason)))
    }

    fn write(&self, folder: &Path) -> Result<()> {
        Ok(write_atomically(&folder.join(TASK), serde_json::to_string_pretty(self)?.as_bytes())?)
    }
}

/// Name of the folder of an arm with a seed.
pub(crate) fn task_name(arm: &str, seed: u64) -> String {
    format!("{arm}-seed{seed}")
}

/// Where that folder is in a run.
pub(crate) fn task_folder(run: &Path, arm: &str, seed: u64) -> PathBuf {
    run.join("arms").join(task_name(arm, seed))
}

/// The same as a person reads it.
pub(crate) fn task_title(arm: &str, seed: u64) -> String {
    format!("{arm} seed {seed}")
}

/// Whether nothing is left to do in the folder of a task.
pub(crate) fn is_done(folder: &Path) -> bool {
    folder.join(RESULT).is_file() || folder.join(DIVERGED).is_file()
}

fn move_over(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        fs::remove_dir_all(to).map_err(Error::io(to))?;
    }
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    fs::rename(from, to).map_err(Error::io(to))?;
    Ok(())
}

/// SHA-256 of the running program: whatever changes in it may change a result.
pub(crate) fn code_version() -> Result<String> {
    let path = own_program()?;
    let mut hash = Sha256::new();
    let mut file = File::open(&path).map_err(Error::io(&path))?;
    std::io::copy(&mut file, &mut hash).map_err(Error::io(&path))?;
    Ok(hex(hash))
}

/// A lock on a folder, as long as it lives; the system gives it back if the process dies.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

/// The process that holds a folder.
pub(crate) fn holder(folder: &Path) -> String {
    fs::read_to_string(folder.join(LOCK)).unwrap_or_default()
}

impl Lock {
    /// Waits for it as long as `patience` lasts and no signal comes; whoever has it may be saving its state still.
    pub(crate) fn wait(folder: &Path, patience: Duration, interrupt: &AtomicBool) -> Result<Option<Self>> {
        let since = Instant::now();
        loop {
            let lock = Self::take(folder)?;
            if lock.is_some() || since.elapsed() >= patience || interrupt.load(Ordering::Relaxed) {
                return Ok(lock);
            }
            sleep(Duration::from_millis(50));
        }
    }

    /// None if another process holds it, whose number stands in the file.
    pub(crate) fn take(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(LOCK);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io(&path))?;
        match file.try_lock() {
            Ok(()) => {
                file.set_len(0).map_err(Error::io(&path))?;
                write!(file, "{}", std::process::id()).map_err(Error::io(&path))?;
                Ok(Some(Self { _file: file }))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(Error::io(&path)(e).into()),
        }
    }
}
