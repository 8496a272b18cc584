//! Recipes: TOML in, checked configuration out.

mod data;
mod grid;
mod tables;

pub use data::DataConfig;
pub use grid::Place;

pub(crate) use data::Sides;
pub(crate) use grid::Axis;
pub(crate) use tables::{apply_all, parse, read_table};

use crate::adapter::{AdapterConfig, Base, check_bases, with_base_model};
use crate::analysis::AnalysisConfig;
use crate::captioned::{self, TextConfig};
use crate::compare::CompareConfig;
use crate::compose::ComposeConfig;
use crate::dirs::find_fragment;
use crate::hash::of_text;
use crate::regularization::RegularizationConfig;
use crate::space::LatentConfig;
use crate::study::Equal;
use anyhow::{Context, Result, bail};
use grid::expand;
use heldout_core::{Error, NoiseSchedule, Parameterization};
use heldout_features::FeaturesConfig;
use heldout_metrics::FeatureMetric;
use heldout_samplers::{SamplerConfig, TimeGrid, Variance};
use heldout_schedules::{LossWeighting, NoiseScheduleConfig, Prediction, TimesConfig};
use heldout_train::{EarlyStoppingConfig, LearningRate, NonFinite, OptimizerConfig};
use heldout_weights::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tables::{merge, take, take_checked, take_if_there, with_fragments};
use tch::{Device, Tensor, nn};
use toml::{Table, Value};

/// The place of the model whose weights a run starts with.
pub(crate) const INITIAL_WEIGHTS: &str = "initial_weights";

/// One training run, completely described.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What is trained on.
    pub data: DataConfig,
    /// Latents of images instead of pixels; pixels if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentConfig>,
    /// What is trained beside a base that keeps its weights; the network itself if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterConfig>,
    /// A model of the same network whose evaluated weights this one starts with; drawn by the seed if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_weights: Option<Base>,
    /// Texts as conditions; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextConfig>,
    /// The network; that of the base, which then need not be written, where an adapter names its base by a path.
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
    /// Combinations of conditions that further samples are asked for at the end; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<ComposeConfig>,
    /// What is kept.
    pub checkpoint: CheckpointConfig,
}

/// The loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
    /// Labels that samples are told, in a run and at its end; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<SampleLabels>,
}

/// Labels that samples are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SampleLabels {
    /// Sample `i` that of training image `i`, beginning again after the last: what a model copies when it is asked for it.
    Train,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
        self.check_data()?;
        self.latent.as_ref().map_or(Ok(()), LatentConfig::check).map_err(|e| e.within("latent"))?;
        self.compose.as_ref().map_or(Ok(()), |c| c.check(self)).map_err(|e| e.within("compose"))?;
        if let Some(adapter) = &self.adapter {
            adapter.check(self).map_err(|e| e.within("adapter"))?;
            if self.initial_weights.is_some() {
                let reason = "beside an adapter, whose base says where its weights come from: leave it out";
                return Err(Error::config(INITIAL_WEIGHTS, reason));
            }
        }
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

    /// A recipe trains on texts and labels at most, and validates and samples without labels: a model must have a null class
    /// for that.
    fn check_conditions(&self) -> heldout_core::Result<()> {
        let mut conditions = self.model.example(1, None, 1)?.conditions;
        if let Some(text) = &self.text {
            text.check(&self.model).map_err(|e| e.within("text"))?;
            conditions.retain(|(name, _)| *name != captioned::CONTEXT);
        }
        let transformer = matches!(
            self.model,
            ModelConfig::Dit(_) | ModelConfig::DiTTransformer2DModel(_) | ModelConfig::SpaceTimeDit(_)
        );
        let has_null = self.regularization.null_class();
        match conditions.first() {
            Some((name, _)) if *name == "class_labels" && has_null == Some(self.model.classes() - 1) => {
                Ok(())
            }
            Some((name, _)) if !transformer => {
                let reason = format!(
                    "needs {name}, which this recipe does not give: for texts add a table `text`; leave it out, use a dit, which has a null class, or drop labels to the last class with \
                     regularization.augment label_dropout"
                );
                Err(Error::config("model", reason))
            }
            _ => Ok(()),
        }
    }

    /// Every model that must be there before, by the name of its place: what an adapter is added to, and what the weights
    /// start with.
    pub(crate) fn bases(&self) -> Vec<(String, &Base)> {
        let mut all = self.adapter.as_ref().map_or_else(Vec::new, AdapterConfig::bases);
        all.extend(self.initial_weights.as_ref().map(|base| (INITIAL_WEIGHTS.to_owned(), base)));
        all
    }

    /// SHA-256 of the recipe and the seed: names what a checkpoint belongs to.
    pub fn fingerprint(&self, seed: u64) -> String {
        let text = serde_json::to_string(&(self, seed)).unwrap_or_default();
        of_text(&text)
    }
}

impl Recipe {
    /// To a size that takes a second; `cache` is a folder for latents of an autoencoder of one step.
    fn shrink(&mut self, cache: &Path) {
        const STEPS: u64 = 2;
        (self.train.steps, self.train.stop_after) = (STEPS, None);
        (self.validation.every, self.monitor.every, self.checkpoint.every) = (STEPS, 1, STEPS);
        self.validation.images = self.validation.images.min(2);
        self.validation.log_snr.truncate(8);
        self.sample.samples = self.sample.samples.min(8);
        self.sample.steps = self.sample.steps.min(2);
        self.data.shrink(512.max(self.train.batch_size), 128);
        self.monitor.samples = self.monitor.samples.min(8);
        self.monitor.sampling_steps = self.monitor.sampling_steps.min(2);
        if let Some(latent) = &mut self.latent {
            (latent.autoencoder_steps, latent.cache) = (Some(1), Some(cache.to_owned()));
        }
        if let Some(compose) = &mut self.compose {
            compose.decoder.steps = compose.decoder.steps.min(STEPS);
        }
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
    /// In the order of the file; with a grid, every arm with every value of every axis.
    pub arms: Vec<(String, Recipe)>,
    /// Where each arm stands in the grid.
    pub places: Vec<Place>,
    /// Whether arms have as many steps, or as many multiply-adds.
    pub equal: Equal,
    /// Every arm beside one of them; not compared if absent.
    pub compare: Option<CompareConfig>,
    /// What is asked beyond that.
    pub analysis: Option<AnalysisConfig>,
    /// The file after `--set`, as it is written into the run folder.
    pub resolved: String,
}

impl Study {
    /// Reads a recipe file and applies `sets` (`KEY=VALUE`) to it: what is set wins over the file and over its arms.
    pub fn read(path: &Path, sets: &[String]) -> Result<Self> {
        Self::read_with(path, &[], sets)
    }

    /// The same with fragments merged into the base before anything is set. Techniques that a fragment lists come before
    /// those that the recipe lists: they are the inner ones. Averages of weights come after, since the outermost is evaluated.
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
        for of_the_old_arms in ["grid", "equal", "compare", "analysis"] {
            table.remove(of_the_old_arms);
        }
        Self::from_table(table)
    }

    /// The same arms in a size that takes seconds, to see that everything runs: two steps, and few images of everything. Its
    /// recipe has every arm in full.
    pub fn smoke(mut self) -> Result<Self> {
        let cache = std::env::temp_dir().join(format!("heldout-smoke-{}", std::process::id()));
        self.name = format!("{}-smoke", self.name);
        self.seeds.truncate(1);
        self.equal = Equal::Steps; // of two steps there is nothing to make equal
        let mut arms = Table::new();
        for (name, recipe) in &mut self.arms {
            recipe.shrink(&cache);
            arms.insert(name.clone(), Value::Table(Table::try_from(&*recipe)?));
        }
        let mut table = Table::new();
        table.insert("name".to_owned(), self.name.clone().into());
        table.insert("question".to_owned(), self.question.clone().into());
        table.insert("seeds".to_owned(), Value::try_from(&self.seeds)?);
        if let Some(compare) = &self.compare {
            table.insert("compare".to_owned(), Value::try_from(compare)?);
        }
        table.insert("arms".to_owned(), Value::Table(arms));
        self.resolved = toml::to_string(&table)?;
        Ok(self)
    }

    fn from_table(table: Table) -> Result<Self> {
        let resolved = toml::to_string(&table)?;
        let mut base = table;
        let name: String = take(&mut base, "name")?;
        let question: String = take(&mut base, "question")?;
        let seeds: Vec<u64> = take(&mut base, "seeds")?;
        let equal: Option<Equal> = take_if_there(&mut base, "equal")?;
        let compare: Option<CompareConfig> = take_checked(&mut base, "compare")?;
        let analysis: Option<AnalysisConfig> = take_checked(&mut base, "analysis")?;
        let arms: Option<Table> = take_if_there(&mut base, "arms")?;
        let grid: Option<Table> = take_if_there(&mut base, "grid")?;
        let arms = expand(arms.unwrap_or_default(), grid.unwrap_or_default())?;
        if arms.is_empty() || seeds.is_empty() {
            bail!(Error::config("arms", "at least one arm, or a grid, and one seed are needed"));
        }
        let mut found = Vec::new();
        let mut places = Vec::new();
        for (arm, mut change, place) in arms {
            if arm.is_empty() || !arm.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') {
                let reason = "names are letters, digits, - and _: they become folders";
                bail!(Error::config(format!("arms.{arm}"), reason));
            }
            let fragments: Option<Vec<String>> = match &mut change {
                Value::Table(change) => take_if_there(change, "with")?,
                _ => None,
            };
            let fragments = fragments.unwrap_or_default();
            let paths = fragments.iter().map(|name| find_fragment(name)).collect::<Result<Vec<_>>>();
            let paths = paths.with_context(|| format!("arms.{arm}.with"))?;
            let mut merged = Value::Table(with_fragments(base.clone(), &paths, &[])?);
            merge(&mut merged, change);
            with_base_model(&mut merged)?;
            let recipe: Recipe = parse(merged)?;
            recipe.check()?;
            check_bases(&recipe, &found)?;
            found.push((arm, recipe));
            places.push(place);
        }
        compare.as_ref().map_or(Ok(()), |c| c.check(&found)).map_err(|e| e.within("compare"))?;
        let equal = equal.unwrap_or_default();
        let study = Self { name, question, seeds, arms: found, places, equal, compare, analysis, resolved };
        study.analysis.as_ref().map_or(Ok(()), |a| a.check(&study)).map_err(|e| e.within("analysis"))?;
        Ok(study)
    }
}
