//! The files of a run.

use crate::frames::ExampleShape;
use crate::record::{Record, RunInfo};
use crate::result::{ArmResult, FinalSamples, StudyResult};
use crate::run::{STUDY, read_json};
use crate::sink::{RECORDS, read_records};
use crate::study::{Task, task_folder};
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_train::Event;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use tch::Tensor;

/// A run as far as it got.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) info: RunInfo,
    pub(crate) recipe: String,
    pub(crate) records: Vec<Record>,
    pub(crate) result: Option<StudyResult>,
    /// Those that have begun, in the order of the recipe, seed after seed.
    pub(crate) arms: Vec<LoadedArm>,
}

/// One arm with one seed.
#[derive(Debug)]
pub(crate) struct LoadedArm {
    pub(crate) name: String,
    pub(crate) seed: u64,
    pub(crate) result: Option<ArmResult>,
    /// The programs that worked on it, by their hashes.
    pub(crate) code: Vec<String>,
    pub(crate) pictures: Option<Pictures>,
}

/// The final samples and their neighbours; each tensor u8 `[n, C, H, W]`, of clips with their frames side by side.
#[derive(Debug)]
pub(crate) struct Pictures {
    pub(crate) shape: ExampleShape,
    pub(crate) distances: FinalSamples,
    pub(crate) tensors: HashMap<String, Tensor>,
}

impl Loaded {
    /// Names of the arms, in the order of the recipe.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for arm in &self.arms {
            if !names.contains(&arm.name) {
                names.push(arm.name.clone());
            }
        }
        names
    }
}

/// Reads a run folder.
pub(crate) fn load(run: &Path) -> Result<Loaded> {
    let info_path = run.join("run.json");
    if !info_path.is_file() {
        return Err(anyhow!(Error::file(run, "is not a run folder: it holds no run.json")));
    }
    let info: RunInfo = read_json(&info_path)?;
    let recipe_path = run.join("recipe.toml");
    let recipe = fs::read_to_string(&recipe_path).map_err(Error::io(&recipe_path))?;
    let records = counted_records(run)?;
    let result_path = run.join(STUDY);
    let result = result_path.is_file().then(|| read_json(&result_path)).transpose()?;
    let begun = arms(run, &info).filter(|(_, _, folder)| folder.is_dir());
    let arms = begun.map(|(name, seed, folder)| load_arm(&folder, name, seed)).collect::<Result<_>>()?;
    Ok(Loaded { info, recipe, records, result, arms })
}

/// Name, seed and folder of every arm of a run, begun or not.
fn arms(run: &Path, info: &RunInfo) -> impl Iterator<Item = (String, u64, PathBuf)> {
    let all = info.seeds.iter().flat_map(|seed| info.arms.iter().map(|name| (name.clone(), *seed)));
    let run = run.to_owned();
    all.map(move |(name, seed)| {
        let folder = task_folder(&run, &name, seed);
        (name, seed, folder)
    })
}

/// The records of a run; of several validations at one step the last, which is of the weights that count.
pub(crate) fn counted_records(run: &Path) -> Result<Vec<Record>> {
    let info: RunInfo = read_json(&run.join("run.json"))?;
    let mut records = Vec::new();
    for (_, _, folder) in arms(run, &info) {
        records.extend(read_records(&folder.join(RECORDS))?);
    }
    let validates = |r: &Record| matches!(r.event, Event::Validation { .. });
    let place = |r: &Record| (r.arm.clone(), r.seed, r.step);
    let last: HashMap<_, usize> =
        records.iter().enumerate().filter(|(_, r)| validates(r)).map(|(i, r)| (place(r), i)).collect();
    let mut number = 0;
    records.retain(|r| {
        number += 1;
        !validates(r) || last.get(&place(r)) == Some(&(number - 1))
    });
    Ok(records)
}

fn load_arm(folder: &Path, name: String, seed: u64) -> Result<LoadedArm> {
    let arm = folder.join("arm.json");
    if !arm.is_file() {
        return Ok(LoadedArm { name, seed, result: None, code: Vec::new(), pictures: None });
    }
    let path = folder.join("final.safetensors");
    let tensors = Tensor::read_safetensors(&path).map_err(|e| Error::file(&path, format!("damaged: {e}")))?;
    let shape: ExampleShape = read_json(&folder.join("shape.json"))?;
    let mut tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
    for name in
        ["samples", "nearest", "second_nearest", "held_out", "held_out_nearest", "held_out_second_nearest"]
    {
        if tensors.get(name).is_none_or(|t| t.size().get(1..) != Some(&shape.stacked())) {
            return Err(anyhow!(Error::file(path, format!("holds no images `{name}`"))));
        }
    }
    tensors.values_mut().for_each(|t| *t = shape.pictures(t));
    let distances = read_json(&folder.join("final.json"))?;
    let pictures = Some(Pictures { shape, distances, tensors });
    let code = Task::read(folder)?.map_or_else(Vec::new, |task| task.code);
    Ok(LoadedArm { name, seed, result: Some(read_json(&arm)?), code, pictures })
}
