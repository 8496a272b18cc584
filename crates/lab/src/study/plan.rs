//! What a study has to do: every arm with every seed, each named by all that its result depends on.

use crate::adapter::Base;
use crate::arm::Arm;
use crate::dirs::project_root;
use crate::hash::{add_tensors, hex, of_text};
use crate::recipe::{Recipe, Study};
use crate::study::equal::equal_compute;
use crate::study::estimate::{Progress, progress};
use crate::study::task::{Task, code_version};
use anyhow::{Context, Result};
use heldout_core::Error;
use heldout_torch_ext::libtorch_version;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use tch::{Device, Tensor};
use walkdir::WalkDir;

/// All tasks, those that others build on before them, and the data sets in a line each.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) tasks: Vec<Planned>,
    pub(crate) data: Vec<String>,
}

/// A task and what it needs.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) task: Task,
    pub(crate) recipe: Rc<Recipe>,
    /// Places in the plan of the tasks that must be done before.
    pub(crate) after: Vec<usize>,
}

impl Plan {
    /// Opens the data of every arm once, finding all that can be wrong with it. None if a signal came. Tasks compute on `device`,
    /// which need not be on this machine.
    pub(crate) fn of(study: &Study, device: Device, interrupt: &AtomicBool) -> Result<Option<Self>> {
        for latent in study.arms.iter().filter_map(|(_, recipe)| recipe.latent.as_ref()) {
            let here = if device.is_cuda() && !tch::Cuda::is_available() { Device::Cpu } else { device };
            if !latent.prepare(here, interrupt)? {
                return Ok(None);
            }
        }
        let root = project_root().join("datasets");
        let recipes = equal_compute(study, &root)?;
        let mut data = Vec::new();
        let mut contents = Vec::new();
        let (mut known, mut files) = (HashMap::<String, String>::new(), Files::default());
        for ((name, _), recipe) in study.arms.iter().zip(&recipes) {
            let arm = Arm::open(name, study.seeds[0], recipe, &root, Device::Cpu)?;
            arm.check()?;
            let clips = arm.space.examples.frames() > 1;
            study.compare.as_ref().map_or(Ok(()), |compare| compare.check_examples(name, clips))?;
            let line = arm.data_line();
            if !data.contains(&line) {
                data.push(line);
            }
            let told = serde_json::to_string(&(&recipe.data, &recipe.latent, &recipe.text))?;
            let content = match known.get(&told) {
                Some(content) => content.clone(),
                None => content(&arm)?,
            };
            known.insert(told, content.clone());
            contents.push(content + &files.named_in(&serde_json::to_value(recipe.as_ref())?)?);
        }
        let code = vec![code_version()?];
        let mut tasks: Vec<Planned> = Vec::new();
        for seed in &study.seeds {
            let first = tasks.len();
            for (((name, _), recipe), content) in study.arms.iter().zip(&recipes).zip(&contents) {
                let (mut after, mut built_on) = (Vec::new(), Vec::new());
                for (_, base) in recipe.bases() {
                    match base {
                        // `check_bases` has seen that such an arm comes before.
                        Base::Arm { arm } => {
                            let place = (first..tasks.len()).find(|i| tasks[*i].task.arm == *arm);
                            built_on.extend(place.map(|i| tasks[i].task.key.clone()));
                            after.extend(place);
                        }
                        Base::Path(_) => {} // among the files that the recipe names
                    }
                }
                built_on.push(libtorch_version().to_owned());
                if device != Device::Cpu {
                    built_on.push("a GPU".to_owned()); // which draws other numbers
                }
                let key = of_text(&serde_json::to_string(&(recipe.as_ref(), seed, content, built_on))?);
                let task = Task { arm: name.clone(), seed: *seed, key, code: code.clone() };
                tasks.push(Planned { task, recipe: recipe.clone(), after });
            }
        }
        Ok(Some(Self { tasks, data }))
    }

    /// Whether nothing is left to do in `run`.
    pub(crate) fn is_done(&self, run: &Path, any_code: bool) -> Result<bool> {
        for planned in &self.tasks {
            if progress(planned, run, any_code)? != Progress::Done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Steps of all tasks.
    pub(crate) fn steps(&self) -> u64 {
        self.tasks.iter().map(|t| t.recipe.train.steps).sum()
    }
}

/// Of the images and of what the model is given and told.
fn content(arm: &Arm<'_>) -> Result<String> {
    let mut hash = Sha256::new();
    let sets = [&arm.train, &arm.held_out, &arm.in_space.train, &arm.in_space.held_out];
    let named: Vec<(String, Tensor)> =
        sets.iter().enumerate().map(|(i, t)| (i.to_string(), t.shallow_clone())).collect();
    add_tensors(&mut hash, &named)?;
    let images = || arm.split.train.iter().chain(&arm.split.held_out);
    if let Some(labels) = &arm.set.labels {
        hash.update(serde_json::to_string(&images().map(|i| labels[*i]).collect::<Vec<_>>())?);
    }
    if let (Some(texts), Some(captions)) = (&arm.texts, &arm.set.captions) {
        hash.update(serde_json::to_string(texts.prompts.texts())?);
        hash.update(serde_json::to_string(&images().map(|i| &captions.texts[*i]).collect::<Vec<_>>())?);
    }
    if let Some(classes) = &arm.classes {
        hash.update(serde_json::to_string(classes)?);
    }
    if let Some(weights) = arm.space.weights() {
        add_tensors(&mut hash, &weights)?;
    }
    Ok(hex(hash))
}

/// Tables and texts of a recipe that name no file which a result depends on: the images count by themselves.
const NO_FILES: [&str; 5] = ["data", "cache", "name", "question", "kind"];
/// What a run writes about a model beside its weights.
const MEASURED: [&str; 3] = ["arm.json", "final.json", "task.json"];

/// The files that recipes name: bases, autoencoders, encoders of texts, feature networks. Each is read once.
#[derive(Debug, Default)]
struct Files {
    known: HashMap<PathBuf, String>,
}

impl Files {
    /// Of all files and folders whose path is a text somewhere in `recipe`; of a name of the hub nothing.
    fn named_in(&mut self, recipe: &Value) -> Result<String> {
        let mut all = String::new();
        match recipe {
            Value::String(text) if Path::new(text).exists() => all += &self.of(Path::new(text))?,
            Value::Array(list) => {
                for value in list {
                    all += &self.named_in(value)?;
                }
            }
            Value::Object(table) => {
                for (_, value) in table.iter().filter(|(key, _)| !NO_FILES.contains(&key.as_str())) {
                    all += &self.named_in(value)?;
                }
            }
            _ => {}
        }
        Ok(all)
    }

    /// Of weights, and of what says how they are read.
    fn of(&mut self, path: &Path) -> Result<String> {
        if let Some(known) = self.known.get(path) {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        for entry in WalkDir::new(path).sort_by_file_name() {
            let entry = entry.with_context(|| format!("{}", path.display()))?;
            let kind = entry.path().extension().and_then(|e| e.to_str());
            let counts = matches!(kind, Some("safetensors" | "pt" | "json" | "txt"))
                && !MEASURED.iter().any(|name| entry.file_name() == *name);
            if counts && entry.file_type().is_file() {
                let mut file = File::open(entry.path()).map_err(Error::io(entry.path()))?;
                std::io::copy(&mut file, &mut hash).map_err(Error::io(entry.path()))?;
            }
        }
        let found = hex(hash);
        self.known.insert(path.to_owned(), found.clone());
        Ok(found)
    }
}
