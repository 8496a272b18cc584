//! Averages of the weights as they were along the run, to make others from.

use crate::checkpoint::write_tensors_atomically;
use heldout_core::{Clock, Error, Evaluation, Flow, Observer, Persist, Result, Update};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Keeps a copy of every average every `every` steps, and of the last, as `FOLDER/NAME/step-00000600.safetensors`: 4 bytes a
/// parameter, average and copy. Any width of a power-function average can be made from them after the run.
#[derive(Debug)]
pub struct KeptAverages {
    folder: PathBuf,
    every: u64,
}

impl KeptAverages {
    /// Below `folder`, which is made when there is something to keep.
    pub fn new(folder: &Path, every: u64) -> Self {
        Self { folder: folder.to_owned(), every }
    }

    /// Copies that were kept of the average `name`, by their steps, first step first.
    pub fn list(folder: &Path, name: &str) -> Result<Vec<(u64, PathBuf)>> {
        let folder = folder.join(file_name(name));
        let entries = match fs::read_dir(&folder) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(Error::io(&folder))?,
        };
        let step = |path: &Path| path.file_stem()?.to_str()?.strip_prefix("step-")?.parse().ok();
        let paths = entries.map(|entry| Ok(entry.map_err(Error::io(&folder))?.path()));
        let mut found = paths
            .map(|path| path.map(|path| step(&path).map(|step| (step, path))))
            .filter_map(Result::transpose)
            .collect::<Result<Vec<(u64, PathBuf)>>>()?;
        found.sort();
        Ok(found)
    }
}

fn file_name(name: &str) -> String {
    name.replace(' ', "_")
}

impl Persist for KeptAverages {}

impl Observer for KeptAverages {
    fn name(&self) -> &'static str {
        "averages"
    }

    fn after_step(&mut self, clock: Clock, _: &Evaluation, update: &dyn Update) -> Result<Flow> {
        let done = clock.step + 1;
        if !done.is_multiple_of(self.every) && done != clock.total {
            return Ok(Flow::Continue);
        }
        for average in update.averages() {
            let folder = self.folder.join(file_name(average.name));
            fs::create_dir_all(&folder).map_err(Error::io(&folder))?;
            let names = update.params().named().map(|(name, _)| name);
            let host: Vec<(&str, Tensor)> =
                names.zip(average.weights.iter().map(|t| t.to_device(Device::Cpu))).collect();
            write_tensors_atomically(&host, &folder.join(format!("step-{done:08}.safetensors")))?;
        }
        Ok(Flow::Continue)
    }
}
