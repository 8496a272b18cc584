//! Recipes: TOML in, checked configuration out.

use crate::regularization::RegularizationConfig;
use anyhow::{Context, Result, anyhow, bail};
use heldout_core::{Error, NoiseSchedule, Parameterization};
use heldout_data::SplitConfig;
use heldout_features::FeaturesConfig;
use heldout_metrics::FeatureMetric;
use heldout_samplers::{SamplerConfig, TimeGrid, Variance};
use heldout_schedules::{LossWeighting, NoiseScheduleConfig, Prediction, TimesConfig};
use heldout_train::{EarlyStoppingConfig, LearningRate, NonFinite, OptimizerConfig};
use heldout_weights::ModelConfig;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use tch::{Device, Tensor, nn};
use toml::{Table, Value};

/// One training run, completely described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained on.
    pub data: DataConfig,
    /// The network.
    pub model: ModelConfig,
    /// The forward process.
    pub schedule: NoiseScheduleConfig,
    /// The loss.
    pub objective: ObjectiveConfig,
    /// The steps.
    pub train: TrainConfig,
    /// What keeps training out of poor optima.
    #[serde(default)]
    pub regularization: RegularizationConfig,
    /// Denoising loss at fixed noise.
    pub validation: ValidationConfig,
    /// Watching for copies.
    pub monitor: MonitorConfig,
    /// The final samples.
    pub sample: SampleConfig,
    /// What is kept.
    pub checkpoint: CheckpointConfig,
}

/// What is trained on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A shipped or fetched data set, or a path.
    pub name: String,
    /// How it is divided.
    pub split: SplitConfig,
}

/// The loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveConfig {
    /// What the network predicts.
    pub prediction: Prediction,
    /// Weight by noise level.
    pub weighting: LossWeighting,
    /// Fourier features of a learned uncertainty that divides the weight; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncertainty_features: Option<i64>,
    /// Weight of the variational bound on a learned variance, for a network with twice the images' channels; 0.001 in
    /// the paper.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variance_bound: Option<f64>,
    /// Draws of the noise level.
    #[serde(default)]
    pub times: TimesConfig,
}

/// The steps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// How many.
    pub steps: u64,
    /// Stop after this many of them; the learning rate and other curves stay those of all steps. All if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_after: Option<u64>,
    /// Images of a step.
    pub batch_size: usize,
    /// Adam, AdamW or SGD.
    pub optimizer: OptimizerConfig,
    /// Its rate.
    pub learning_rate: LearningRate,
    /// What to do about a loss that is no number.
    pub non_finite: NonFinite,
    /// Steps between two lines of training loss.
    pub log_every: u64,
}

/// Denoising loss at fixed noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationConfig {
    /// Steps between two.
    pub every: u64,
    /// Images of each set.
    pub images: usize,
    /// Noise levels, `ln(alpha^2 / sigma^2)`, at least 8.
    pub log_snr: Vec<f64>,
    /// When to stop before the last step; never if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<EarlyStoppingConfig>,
}

/// Watching samples: for copies always, and by metrics on features where a network is named.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MonitorConfig {
    /// Steps between two looks.
    pub every: u64,
    /// Samples of a look.
    pub samples: usize,
    /// Sampling steps of a look.
    pub sampling_steps: usize,
    /// The network whose features are measured; its kernel distance to held-out images becomes the quality of a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<FeaturesConfig>,
    /// What is measured of them.
    #[serde(default = "usual_metrics", skip_serializing_if = "is_usual")]
    pub metrics: Vec<FeatureMetric>,
    /// The largest share of the training time that looks may take; they wait when it is spent. When they come is then a
    /// function of the machine, so that records, never weights, differ between two runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<f64>,
}

fn usual_metrics() -> Vec<FeatureMetric> {
    FeatureMetric::USUAL.to_vec()
}

fn is_usual(metrics: &[FeatureMetric]) -> bool {
    metrics == FeatureMetric::USUAL
}

/// How images are sampled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleConfig {
    /// The sampler.
    pub sampler: SamplerConfig,
    /// Its steps.
    pub steps: usize,
    /// The noise levels that they visit.
    #[serde(default)]
    pub grid: TimeGrid,
    /// How many images at the end of a run.
    pub samples: usize,
    /// Images of one forward pass.
    pub batch_size: usize,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointConfig {
    /// Steps between two.
    pub every: u64,
    /// How many of the last ones stay, besides the best by every score as it was last measured: let validation and monitor
    /// look as often.
    pub keep: usize,
    /// Steps between two copies of every average that are kept, to make averages of other widths from; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub averages_every: Option<u64>,
}

impl Recipe {
    /// Which field cannot be honoured, and why. Data sets are checked when they are opened.
    pub fn check(&self) -> heldout_core::Result<()> {
        let positive = |field: &str, n: u64| {
            if n > 0 { Ok(()) } else { Err(Error::config(field, "0: at least 1 is needed")) }
        };
        self.model.check().map_err(|e| e.within("model"))?;
        self.check_conditions()?;
        let loss = crate::assemble::Loss::new(self, &nn::VarStore::new(Device::Cpu).root())?;
        self.check_levels(loss.schedule.as_ref())?;
        positive("train.steps", self.train.steps)?;
        if let Some(stop) = self.train.stop_after.filter(|stop| !(1..=self.train.steps).contains(stop)) {
            let reason = format!("{stop} is not between 1 and train.steps = {}", self.train.steps);
            return Err(Error::config("train.stop_after", reason));
        }
        positive("train.log_every", self.train.log_every)?;
        self.train.optimizer.check().map_err(|e| e.within("train.optimizer"))?;
        self.train.learning_rate.check().map_err(|e| e.within("train.learning_rate"))?;
        positive("validation.every", self.validation.every)?;
        positive("validation.images", self.validation.images as u64)?;
        if let Some(stopping) = &self.validation.early_stopping {
            stopping.check().map_err(|e| e.within("validation.early_stopping"))?;
        }
        let levels = &self.validation.log_snr;
        if levels.len() < 8 || levels.iter().any(|l| !l.is_finite()) {
            let reason = format!("{levels:?}: at least 8 finite noise levels are needed");
            return Err(Error::config("validation.log_snr", reason));
        }
        positive("monitor.every", self.monitor.every)?;
        positive("monitor.samples", self.monitor.samples as u64)?;
        positive("monitor.sampling_steps", self.monitor.sampling_steps as u64)?;
        if let Some(budget) = self.monitor.budget.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            let reason = format!("{budget} is not between 0 and 1: it is a share of the training time");
            return Err(Error::config("monitor.budget", reason));
        }
        positive("sample.steps", self.sample.steps as u64)?;
        positive("sample.samples", self.sample.samples as u64)?;
        positive("sample.batch_size", self.sample.batch_size as u64)?;
        self.sample.sampler.build().map_err(|e| e.within("sample.sampler"))?;
        if self.sample.sampler == (SamplerConfig::Ddpm { variance: Variance::Learned })
            && self.objective.variance_bound.is_none()
        {
            let reason = "learned: the model learns none; set objective.variance_bound = 0.001";
            return Err(Error::config("sample.sampler.variance", reason));
        }
        for steps in [self.sample.steps, self.monitor.sampling_steps] {
            self.sample.grid.times(&loss.schedule, steps).map_err(|e| e.within("sample.grid"))?;
        }
        self.regularization.check(self, &loss.schedule).map_err(|e| e.within("regularization"))?;
        positive("checkpoint.averages_every", self.checkpoint.averages_every.unwrap_or(1))?;
        positive("checkpoint.every", self.checkpoint.every)?;
        positive("checkpoint.keep", self.checkpoint.keep as u64)
    }

    /// A network that looks noise levels up must know all that the schedule and the prediction tell it.
    fn check_levels(&self, schedule: &dyn NoiseSchedule) -> heldout_core::Result<()> {
        let Some(levels) = self.model.levels()? else { return Ok(()) };
        let ends = schedule.marginal(&Tensor::from_slice(&[1e-9, 1.0])); // no step begins at clean data
        let told = self.objective.prediction.scalings(&ends).c_noise;
        let (low, high) = (told.min().double_value(&[]), told.max().double_value(&[]));
        if low > -1.0 && high < levels as f64 {
            return Ok(());
        }
        let reason =
            format!("{levels} levels, 0 to {}, where the schedule has {low:.0} to {high:.0}", levels - 1);
        Err(Error::config("model.time_embedding", reason))
    }

    /// A recipe trains on labels at most, and validates and samples without them: a model must have a null class for that.
    fn check_conditions(&self) -> heldout_core::Result<()> {
        let example = self.model.example(1, None, 1)?;
        let transformer = matches!(self.model, ModelConfig::Dit(_) | ModelConfig::DiTTransformer2DModel(_));
        let has_null = self.regularization.null_class();
        match example.conditions.first() {
            Some((name, _)) if *name == "class_labels" && has_null == Some(self.model.classes() - 1) => {
                Ok(())
            }
            Some((name, _)) if !transformer => {
                let reason = format!(
                    "needs {name}, which recipes do not give: leave it out, use a dit, which has a null class, or drop labels to the last class with \
                     regularization.augment label_dropout"
                );
                Err(Error::config("model", reason))
            }
            _ => Ok(()),
        }
    }

    /// SHA-256 of the recipe and the seed: names what a checkpoint belongs to.
    pub fn fingerprint(&self, seed: u64) -> String {
        let text = serde_json::to_string(&(self, seed)).unwrap_or_default();
        Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// A recipe file: a base and its arms.
#[derive(Debug, Clone, PartialEq)]
pub struct Study {
    /// Short name.
    pub name: String,
    /// What it asks.
    pub question: String,
    /// One run of every arm for each.
    pub seeds: Vec<u64>,
    /// In the order of the file.
    pub arms: Vec<(String, Recipe)>,
    /// The file after `--set`, as it is written into the run folder.
    pub resolved: String,
}

impl Study {
    /// Reads a recipe file and applies `sets` (`KEY=VALUE`) to it: what is set wins over the file and over its arms.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self> {
        Self::read_with(path, &[], sets)
    }

    /// The same with fragments merged into the base before anything is set. Techniques that a fragment lists come before
    /// those that the recipe lists: they are the inner ones.
    pub fn read_with(path: &Path, fragments: &[PathBuf], sets: &[String]) -> Result<Self> {
        Self::from_table(with_fragments(read_table(path)?, fragments, sets)?)
    }

    /// The same without the recipe's own techniques.
    pub(crate) fn read_only_with(path: &Path, fragments: &[PathBuf], sets: &[String]) -> Result<Self> {
        let mut table = read_table(path)?;
        table.remove("regularization");
        Self::from_table(with_fragments(table, fragments, sets)?)
    }

    /// A study from the text of a recipe.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::from_table(toml::from_str(text)?)
    }

    /// The study without its arms: one model of the base recipe.
    pub fn without_arms(self) -> Result<Self> {
        self.with_arms(std::iter::once(("base".to_owned(), String::new())))
    }

    /// The base with other arms: names, and what each changes, as TOML.
    pub(crate) fn with_arms(self, arms: impl Iterator<Item = (String, String)>) -> Result<Self> {
        let mut table: Table = toml::from_str(&self.resolved)?;
        let arms = arms.map(|(name, change)| Ok((name, Value::Table(toml::from_str(&change)?))));
        table.insert("arms".to_owned(), Value::Table(arms.collect::<Result<_>>()?));
        Self::from_table(table)
    }

    fn from_table(table: Table) -> Result<Self> {
        let resolved = toml::to_string(&table)?;
        let mut base = table;
        let name: String = take(&mut base, "name")?;
        let question: String = take(&mut base, "question")?;
        let seeds: Vec<u64> = take(&mut base, "seeds")?;
        let arms: Table = take(&mut base, "arms")?;
        if arms.is_empty() || seeds.is_empty() {
            bail!(Error::config("arms", "at least one arm and one seed are needed"));
        }
        let mut found = Vec::new();
        for (arm, change) in arms {
            if arm.is_empty() || !arm.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                let reason = "names are letters, digits, - and _: they become folders";
                bail!(Error::config(format!("arms.{arm}"), reason));
            }
            let mut merged = Value::Table(base.clone());
            merge(&mut merged, change);
            let recipe: Recipe = parse(merged)?;
            recipe.check()?;
            found.push((arm, recipe));
        }
        Ok(Self { name, question, seeds, arms: found, resolved })
    }
}

fn with_fragments(mut table: Table, fragments: &[PathBuf], sets: &[String]) -> Result<Table> {
    let own = table.get("regularization").cloned();
    let mut lists = Table::new();
    for fragment in fragments {
        let change = read_table(fragment)?;
        join_lists(&mut lists, change.get("regularization"));
        let mut merged = Value::Table(table);
        merge(&mut merged, Value::Table(change));
        table = merged.try_into()?;
    }
    join_lists(&mut lists, own.as_ref());
    if !fragments.is_empty() {
        table.insert("regularization".to_owned(), Value::Table(lists));
    }
    apply_all(&mut table, sets)?;
    Ok(table)
}

fn read_table(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].lines().count().max(1));
        let reason = format!("line {line}: {}", e.message().lines().next().unwrap_or_default());
        anyhow!(Error::file(path, reason))
    })
}

/// Puts what `behind` lists under a key after what is listed there already.
fn join_lists(lists: &mut Table, behind: Option<&Value>) {
    for (key, value) in behind.and_then(Value::as_table).into_iter().flatten() {
        match (lists.get_mut(key), value) {
            (Some(Value::Array(first)), Value::Array(rest)) => first.extend(rest.iter().cloned()),
            (Some(_), _) => {}
            (None, value) => drop(lists.insert(key.clone(), value.clone())),
        }
    }
}

fn take<T: DeserializeOwned>(table: &mut Table, key: &str) -> Result<T> {
    let value = table.remove(key).ok_or_else(|| anyhow!(Error::config(key, "is missing")))?;
    T::deserialize(value).map_err(|e| anyhow!(Error::config(key, one_line(e.message()))))
}

/// Reads a recipe; an error names the whole path of the key.
pub(crate) fn parse<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let path = if path == "." { "recipe".to_owned() } else { path };
        anyhow!(Error::config(path, one_line(e.inner().message())))
    })
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn parse_value(text: &str) -> Value {
    let table = toml::from_str::<Table>(&format!("value = {text}")).ok();
    table.and_then(|mut t| t.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Applies `KEY=VALUE`, one after the other.
pub(crate) fn apply_all(table: &mut Table, sets: &[String]) -> Result<()> {
    sets.iter().try_for_each(|set| {
        let (key, value) = set.split_once('=').ok_or_else(|| {
            anyhow!(Error::config(format!("--set {set}"), "is not KEY=VALUE, as in train.steps=100"))
        })?;
        apply(table, key, parse_value(value))
    })
}

/// Sets `key` (dotted) to `value`; where the key is one of the base, the arms lose their say in it.
fn apply(table: &mut Table, key: &str, value: Value) -> Result<()> {
    let path: Vec<&str> = key.split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        bail!(Error::config(format!("--set {key}"), "is not a dotted key, as train.steps"));
    }
    if path[0] != "arms"
        && let Some(Value::Table(arms)) = table.get_mut("arms")
    {
        arms.iter_mut().for_each(|(_, change)| forget(change, &path));
    }
    let mut place = table;
    for part in &path[..path.len() - 1] {
        let next = place.entry((*part).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        place = next.as_table_mut().ok_or_else(|| {
            anyhow!(Error::config(format!("--set {key}"), format!("`{part}` is not a table")))
        })?;
    }
    place.insert(path[path.len() - 1].to_owned(), value);
    Ok(())
}

fn forget(value: &mut Value, path: &[&str]) {
    if let (Some(table), [first, rest @ ..]) = (value.as_table_mut(), path) {
        match rest {
            [] => drop(table.remove(*first)),
            _ => table.get_mut(*first).into_iter().for_each(|inner| forget(inner, rest)),
        }
    }
}

/// Tables are merged key by key, anything else is replaced; so is a table whose `kind` changes.
fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Table(into), Value::Table(change)) if !changes_kind(into, &change) => {
            for (key, value) in change {
                match into.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => drop(into.insert(key, value)),
                }
            }
        }
        (into, change) => *into = change,
    }
}

fn changes_kind(into: &Table, change: &Table) -> bool {
    change.get("kind").is_some_and(|kind| into.get("kind") != Some(kind))
}
