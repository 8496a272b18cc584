//! Checkpoints: folders of safetensors and JSON that are whole or not there.

use heldout_core::{Error, Result, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Version of the folder's layout.
const FORMAT: u32 = 1;
const STATE: &str = "state.json";
const MANIFEST: &str = "manifest.json";

/// `state.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: u32,
    step: u64,
    /// What it was worth when it was written, by the name of the score; the lowest of each is kept.
    scores: BTreeMap<String, f64>,
    /// What the run was, so that another run's checkpoint is refused.
    fingerprint: String,
    values: BTreeMap<String, Value>,
}

/// `manifest.json`: SHA-256 of every other file.
#[derive(Debug, Serialize, Deserialize)]
struct Manifest {
    sha256: BTreeMap<String, String>,
}

/// Which of several checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice<'a> {
    /// The newest.
    Last,
    /// The lowest of this score.
    Best(&'a str),
}

/// The scores of a run, by name.
pub type Scores = BTreeMap<String, f64>;

/// The checkpoints of one run: the last few, and the best by every score.
///
/// A checkpoint is the folder `step-00000600` with `state.json`, one safetensors file per part of the state
/// (`weights.safetensors` has the model's parameters under their own names) and `manifest.json` with a checksum per file.
/// It is written aside, synced and renamed, so that it is whole or not there.
#[derive(Debug)]
pub struct Checkpoints {
    folder: PathBuf,
    fingerprint: String,
    every: u64,
    keep: usize,
}

/// A checkpoint that was read and found whole.
#[derive(Debug)]
pub struct Loaded {
    /// Steps done.
    pub step: u64,
    /// What was saved.
    pub state: State,
    /// The newer checkpoints that were damaged, with the reason, if any were passed over.
    pub damaged: Vec<String>,
}

impl Checkpoints {
    /// In `folder`, every `every` steps, of which the last `keep` and the best stay, by every score that the observers
    /// have. `fingerprint` names the run.
    pub fn new(folder: &Path, fingerprint: &str, every: u64, keep: usize) -> Result<Self> {
        if every == 0 || keep == 0 {
            return Err(Error::config(
                "checkpoint",
                format!("every {every}, keep {keep}: both are at least 1"),
            ));
        }
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let checkpoints =
            Self { folder: folder.to_owned(), fingerprint: fingerprint.to_owned(), every, keep };
        for aside in entries(folder)?.into_iter().filter(|name| name.starts_with(".writing-")) {
            let path = folder.join(aside);
            fs::remove_dir_all(&path).map_err(Error::io(&path))?; // of a process that was killed while it wrote
        }
        Ok(checkpoints)
    }

    /// Whether one is due when `step` steps are done.
    pub fn due(&self, step: u64) -> bool {
        step.is_multiple_of(self.every)
    }

    /// Writes the state after `step` steps; the folder is whole or not there.
    pub fn save(&mut self, step: u64, scores: &Scores, state: &State) -> Result<()> {
        let aside = self.folder.join(format!(".writing-step-{step:08}"));
        let target = self.folder.join(format!("step-{step:08}"));
        let written = self.write(&aside, step, scores, state).and_then(|()| {
            if target.exists() {
                fs::remove_dir_all(&target).map_err(Error::io(&target))?;
            }
            fs::rename(&aside, &target).map_err(Error::io(&target))?;
            sync(&self.folder)
        });
        if let Err(e) = written {
            let _ = fs::remove_dir_all(&aside); // the error that is reported is the first one
            return Err(e);
        }
        self.prune()
    }

    fn write(&self, aside: &Path, step: u64, scores: &Scores, state: &State) -> Result<()> {
        if aside.exists() {
            fs::remove_dir_all(aside).map_err(Error::io(aside))?;
        }
        fs::create_dir(aside).map_err(Error::io(aside))?;
        let mut files: BTreeMap<String, Vec<(&str, &Tensor)>> = BTreeMap::new();
        for (name, tensor) in &state.tensors {
            let (part, rest) = name.split_once('/').unwrap_or(("state", name));
            files.entry(format!("{}.safetensors", part.replace(' ', "_"))).or_default().push((rest, tensor));
        }
        let mut sha256 = BTreeMap::new();
        for (file, tensors) in files {
            let path = aside.join(&file);
            write_safetensors(&tensors, &path)?;
            sync(&path)?;
            sha256.insert(file, sha256_of_file(&path)?);
        }
        let header = Header {
            format: FORMAT,
            step,
            scores: scores.clone(),
            fingerprint: self.fingerprint.clone(),
            values: state.values.clone(),
        };
        let mut put = |file: &str, text: String| {
            let path = aside.join(file);
            let write = || {
                File::create(&path).and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
            };
            write().map_err(Error::io(&path))?;
            sha256.insert(file.to_owned(), sha256_of_file(&path)?);
            Ok::<_, Error>(())
        };
        put(STATE, json(&header))?;
        let manifest = json(&Manifest { sha256: sha256.clone() });
        let path = aside.join(MANIFEST);
        let write = File::create(&path)
            .and_then(|mut f| f.write_all(manifest.as_bytes()).and_then(|()| f.sync_all()));
        write.map_err(Error::io(&path))?;
        sync(aside)
    }

    /// Removes all but the last `keep` and those of the lowest scores.
    fn prune(&self) -> Result<()> {
        let steps = steps(&self.folder)?;
        let mut best: BTreeMap<String, (f64, &PathBuf)> = BTreeMap::new();
        for (_, path) in &steps {
            for (name, score) in read_header(path).map(|h| h.scores).unwrap_or_default() {
                let lowest = best.entry(name).or_insert((score, path));
                if score < lowest.0 {
                    *lowest = (score, path);
                }
            }
        }
        let old = steps.len().saturating_sub(self.keep);
        for (_, path) in steps[..old].iter().filter(|(_, path)| !best.values().any(|(_, kept)| *kept == path))
        {
            fs::remove_dir_all(path).map_err(Error::io(path))?;
        }
        Ok(())
    }

    /// The newest whole checkpoint, or `None` where there is none at all. Damaged ones are passed over and named.
    pub fn newest(&self) -> Result<Option<Loaded>> {
        let mut damaged = Vec::new();
        for (_, path) in steps(&self.folder)?.into_iter().rev() {
            match read(&path) {
                Ok((header, state)) => {
                    if header.fingerprint != self.fingerprint {
                        let reason = "the checkpoint is of another recipe or model: use the folder of this run, or a new one";
                        return Err(Error::file(path, reason));
                    }
                    return Ok(Some(Loaded { step: header.step, state, damaged }));
                }
                Err(e) => damaged.push(e.to_string()),
            }
        }
        match damaged.into_iter().next() {
            Some(first) => Err(Error::file(&self.folder, format!("no whole checkpoint is left: {first}"))),
            None => Ok(None),
        }
    }
}

impl Loaded {
    /// Reads the checkpoint folder `path`, or the chosen one of the whole ones below it.
    pub fn open(path: &Path, choice: Choice<'_>) -> Result<Self> {
        if path.join(MANIFEST).is_file() {
            let (header, state) = read(path)?;
            return Ok(Self { step: header.step, state, damaged: Vec::new() });
        }
        let mut found = steps(path)?;
        if let Choice::Best(name) = choice {
            let score = |p: &Path| read_header(p).ok().and_then(|h| h.scores.get(name).copied());
            if !found.iter().any(|(_, p)| score(p).is_some()) {
                return Err(Error::file(path, format!("no checkpoint has the score `{name}`")));
            }
            let order = |p: &Path| score(p).unwrap_or(f64::INFINITY);
            found.sort_by(|a, b| order(&b.1).total_cmp(&order(&a.1)));
        }
        let mut damaged = Vec::new();
        for (_, path) in found.into_iter().rev() {
            match read(&path) {
                Ok((header, state)) => return Ok(Self { step: header.step, state, damaged }),
                Err(e) => damaged.push(e.to_string()),
            }
        }
        let reason = damaged.into_iter().next().unwrap_or_else(|| "holds no checkpoint".to_owned());
        Err(Error::file(path, reason))
    }
}

/// Step folders below `folder`, first step first.
fn steps(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |name: String| Some((name.strip_prefix("step-")?.parse().ok()?, folder.join(&name)));
    let mut found: Vec<(u64, PathBuf)> = entries(folder)?.into_iter().filter_map(step).collect();
    found.sort();
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<String>> {
    let read = fs::read_dir(folder).map_err(Error::io(folder))?;
    let names = read.map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()));
    names.collect::<std::io::Result<_>>().map_err(Error::io(folder))
}

fn read_header(folder: &Path) -> Result<Header> {
    let path = folder.join(STATE);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    serde_json::from_str(&text).map_err(|e| Error::file(&path, format!("damaged: {e}")))
}

/// Reads a checkpoint after checking every file against the manifest.
fn read(folder: &Path) -> Result<(Header, State)> {
    let path = folder.join(MANIFEST);
    let text = fs::read(&path).map_err(Error::io(&path))?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| Error::file(&path, format!("damaged: {e}")))?;
    for (file, expected) in &manifest.sha256 {
        let path = folder.join(file);
        if sha256_of_file(&path)? != *expected {
            return Err(Error::file(path, "damaged: its checksum is not the manifest's"));
        }
    }
    let header = read_header(folder)?;
    if header.format != FORMAT {
        let reason =
            format!("format {}, this program reads {FORMAT}: use the version that wrote it", header.format);
        return Err(Error::file(folder, reason));
    }
    let mut state = State { values: header.values.clone(), ..State::default() };
    for file in manifest.sha256.keys().filter(|f| f.ends_with(".safetensors")) {
        let path = folder.join(file);
        let part = file.trim_end_matches(".safetensors").replace('_', " ");
        let tensors =
            Tensor::read_safetensors(&path).map_err(|e| Error::file(&path, format!("damaged: {e}")))?;
        state.tensors.extend(tensors.into_iter().map(|(name, t)| (format!("{part}/{name}"), t)));
    }
    Ok((header, state))
}

fn write_safetensors(tensors: &[(&str, &Tensor)], path: &Path) -> Result<()> {
    let on_host: Vec<(&str, Tensor)> =
        tensors.iter().map(|(n, t)| (*n, t.to_device(Device::Cpu).contiguous())).collect();
    Tensor::write_safetensors(&on_host, path)
        .map_err(|e| Error::Io { path: path.to_owned(), source: std::io::Error::other(e.to_string()) })
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// SHA-256 of a file, hexadecimal.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let n = file.read(&mut buffer).map_err(Error::io(path))?;
        if n == 0 {
            return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect());
        }
        hash.update(&buffer[..n]);
    }
}

/// Writes a file aside, syncs and renames it: the file is whole or as it was.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".writing-{name}"));
    let write = || {
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&aside, path)
    };
    write().map_err(|source| {
        let _ = fs::remove_file(&aside); // the error that is reported is the first one
        Error::Io { path: path.to_owned(), source }
    })
}

/// Writes tensors on the CPU as safetensors, aside first: the file is whole or as it was.
pub fn write_tensors_atomically(tensors: &[(&str, Tensor)], path: &Path) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".writing-{name}"));
    let written = Tensor::write_safetensors(tensors, &aside)
        .map_err(|e| Error::file(path, e.to_string()))
        .and_then(|()| sync(&aside))
        .and_then(|()| fs::rename(&aside, path).map_err(Error::io(path)));
    written.inspect_err(|_| drop(fs::remove_file(&aside))) // the error that is reported is the first one
}
