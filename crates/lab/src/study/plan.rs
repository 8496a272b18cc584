//! What a study has to do: every arm with every seed, each named by all that its result depends on.

use crate::adapter::Base;
use crate::arm::Arm;
use crate::dirs::project_root;
use crate::hash::{add_tensors, hex, of_text};
use crate::recipe::{Recipe, Study};
use crate::study::equal::equal_compute;
use crate::study::task::{Task, code_version};
use anyhow::Result;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
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
    /// Opens the data of every arm once, finding all that can be wrong with it. None if a signal came.
    pub(crate) fn of(study: &Study, device: Device, interrupt: &AtomicBool) -> Result<Option<Self>> {
        for latent in study.arms.iter().filter_map(|(_, recipe)| recipe.latent.as_ref()) {
            if !latent.prepare(device, interrupt)? {
                return Ok(None);
            }
        }
        let root = project_root().join("datasets");
        let recipes = equal_compute(study, &root)?;
        let mut data = Vec::new();
        let mut contents = Vec::new();
        let mut known: HashMap<String, String> = HashMap::new();
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
            contents.push(content);
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
                        Base::Path(path) => built_on.push(of_files(Path::new(path))?),
                    }
                }
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
    if let Some(texts) = &arm.texts {
        hash.update(serde_json::to_string(texts.prompts.texts())?);
    }
    if let Some(classes) = &arm.classes {
        hash.update(serde_json::to_string(classes)?);
    }
    Ok(hex(hash))
}

/// Of all tensors in a file or a folder; of nothing where there is none, as for a name of the hub.
fn of_files(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let files = WalkDir::new(path).sort_by_file_name().into_iter().flatten();
    for file in files.filter(|f| f.path().extension().is_some_and(|e| e == "safetensors")) {
        std::io::copy(&mut File::open(file.path())?, &mut hash)?;
    }
    Ok(hex(hash))
}
