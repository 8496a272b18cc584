//! One arm with one seed: data, training, evaluation.

use crate::adapter::Bases;
use crate::captioned::TextConditions;
use crate::conditions::Side;
use crate::evaluate::{Evaluated, evaluate};
use crate::frames::ExampleShape;
use crate::machine::peak_rss_bytes;
use crate::monitor::{Looks, monitor, network};
use crate::parts::Parts;
use crate::progress::{Bar, Progress, go_on, seconds_of};
use crate::recipe::{Recipe, Sides};
use crate::regularization::RegularizationConfig;
use crate::result::{ArmResult, LevelGap, MadeOn, QualityResult};
use crate::sink::ArmSink;
use crate::space::{Source, Space};
use crate::study::RESULT;
use anyhow::{Result, anyhow};
use heldout_core::{Batch, BatchSource, Clock, Error, Observer, Preconditioned, stream};
use heldout_data::{AttributeClasses, Batches, DrawnLabels, Examples, ImageSet, LatentCache, Split, find};
use heldout_features::FeaturesConfig;
use heldout_train::{
    Checkpoints, EarlyStopping, Ending, Event, KeptAverages, Run, TrainLogger, Training, ValidationSets,
    Validator, train, write_atomically,
};
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use tch::{Device, Tensor};

/// An arm whose data are open and whose settings fit them.
#[derive(Debug)]
pub(crate) struct Arm<'a> {
    pub(crate) name: &'a str,
    pub(crate) seed: u64,
    pub(crate) recipe: &'a Recipe,
    pub(crate) device: Device,
    pub(crate) set: Rc<ImageSet>,
    pub(crate) split: Split,
    /// What `data.exclude` has left out of the training images.
    pub(crate) excluded: Vec<usize>,
    /// What images are told by their attributes.
    pub(crate) classes: Option<AttributeClasses>,
    /// How often each training image stands in an epoch.
    multiplicity: Vec<usize>,
    /// What the model works on.
    pub(crate) space: Space,
    /// All training images `[N, C, H, W]` in `[-1, 1]`.
    pub(crate) train: Tensor,
    /// All held-out images.
    pub(crate) held_out: Tensor,
    /// Both in the space of the model.
    pub(crate) in_space: Sets,
    /// What the model is told of texts.
    pub(crate) texts: Option<TextConditions>,
    /// Where training batches come from, if not from the images.
    latents: Option<Rc<LatentCache>>,
    /// Where the models are that it is built on; absent as long as they need not be there.
    pub(crate) bases: Option<Bases>,
}

/// The two sets of real data.
#[derive(Debug)]
pub(crate) struct Sets {
    pub(crate) train: Tensor,
    pub(crate) held_out: Tensor,
}

/// How an arm ended.
#[derive(Debug)]
pub(crate) enum ArmEnding {
    /// Its result is in its folder.
    Done,
    Interrupted,
}

impl<'a> Arm<'a> {
    /// Opens the data and checks that the recipe fits them. `root` is the folder of shipped data sets.
    pub(crate) fn open(
        name: &'a str,
        seed: u64,
        recipe: &'a Recipe,
        root: &Path,
        device: Device,
    ) -> Result<Self> {
        let set = Rc::new(ImageSet::open(&find(&recipe.data.name, root)?)?);
        let Sides { split, multiplicity, excluded, classes } = recipe.data.divide(&set, root)?;
        let space = Space::of(recipe, ExampleShape::of(&set), device)?;
        let [channels, height, width] = space.shape;
        let mask = i64::from(recipe.regularization.corruption.is_some()); // one more channel
        recipe.model.check_images(channels + mask, height, width).map_err(|e| e.within("model"))?;
        recipe
            .regularization
            .check_shape([channels, height, width])
            .map_err(|e| e.within("regularization"))?;
        let told = recipe.data.labels.classes(&set, split.train.len());
        recipe.check_classes(told)?;
        if recipe.sample.labels.is_some() && (told.is_none() || recipe.model.classes() == 0) {
            let reason = "train, where the model is told no labels: leave it out, or set data.labels and the model's classes";
            return Err(anyhow!(Error::config("sample.labels", reason)));
        }
        let learned = recipe.objective.variance_bound.is_some();
        let needed = if learned { 2 * channels } else { channels };
        if recipe.model.out_channels() != needed {
            let why = if learned { " and a learned variance" } else { "" };
            let found = recipe.model.out_channels();
            let what = if recipe.latent.is_some() { "latents" } else { "images" };
            let reason = format!("{found} for {what} of {channels} channels{why}: {needed} are needed");
            return Err(anyhow!(Error::config("model.out_channels", reason)));
        }
        let (train, held_out) = (set.tensor(&split.train, device)?, set.tensor(&split.held_out, device)?);
        let of_train = Source { set: &set, indices: &split.train, name: &recipe.data.train_folder() };
        let of_held_out = Source { set: &set, indices: &split.held_out, name: "held-out" };
        let latents = space.examples(recipe, &of_train, seed, device)?.map(Rc::new);
        let in_space = Sets {
            train: space.plain(recipe, &of_train, &train, device)?,
            held_out: space.plain(recipe, &of_held_out, &held_out, device)?,
        };
        let told = |config| TextConditions::open(config, &recipe.model, (&set, &split), seed, device);
        let texts = recipe.text.as_ref().map(told).transpose()?;
        let bases = None;
        let arm = Self {
            name,
            seed,
            recipe,
            device,
            set,
            split,
            excluded,
            classes,
            multiplicity,
            space,
            train,
            held_out,
            in_space,
            texts,
            latents,
            bases,
        };
        arm.batches()?;
        arm.drawn_classes()?;
        Ok(arm)
    }

    /// Puts together what a recipe alone cannot be checked for: techniques that look at the network or at files.
    pub(crate) fn check(&self) -> Result<()> {
        let RegularizationConfig { corruption, augment, penalty, .. } = &self.recipe.regularization;
        let adapted = self.recipe.adapter.is_some();
        if corruption.is_some() || !augment.is_empty() || !penalty.is_empty() || adapted {
            self.parts()?;
        }
        // A classifier is trained when the run begins; all others can be had, or not, now.
        match &self.recipe.monitor.features {
            Some(FeaturesConfig::Classifier(_)) if self.set.labels.is_some() => Ok(()),
            _ => network(self).map(drop),
        }
    }

    /// `[C, H, W]` of what the model is given.
    pub(crate) fn shape(&self) -> [i64; 3] {
        self.space.shape
    }

    /// The first held-out images, at most `n`: what floors are taken on.
    pub(crate) fn floor_images(&self, n: i64) -> Tensor {
        self.held_out.narrow(0, 0, n.min(self.held_out.size()[0]))
    }

    /// The data set in a line.
    pub(crate) fn data_line(&self) -> String {
        let set = &self.set;
        let what = if set.frames > 1 { "clips" } else { "images" };
        let origin = set.origin.as_deref().map_or(String::new(), |o| format!("; {o}"));
        let duplicates = self.split.duplicates;
        format!(
            "{}: {} {what}, {}, {duplicates} exact duplicates left out{origin}",
            set.title,
            set.len(),
            set.form()
        )
    }

    /// Batches of the training images, each drawn as often as the recipe repeats it.
    pub(crate) fn batches(&self) -> Result<Batches> {
        let batches = self.batches_of(self.recipe.train.batch_size)?;
        Ok(batches.repeated(&self.of_examples(self.multiplicity())).map_err(|e| e.within("data"))?)
    }

    /// How often each training image stands in an epoch, in the order of `train`.
    pub(crate) fn multiplicity(&self) -> &[usize] {
        &self.multiplicity
    }

    /// A batch of `size` training images, none of them repeated, with labels where the model is told of them.
    pub(crate) fn batch_of(&self, size: usize) -> Result<Batch> {
        let mut batch = self.encoded(self.batches_of(size)?)?.batch(Clock { step: 0, total: 1 })?;
        if self.recipe.model.classes() == 0 {
            batch.cond.label = None;
        }
        Ok(batch)
    }

    /// What the model is told of each training image, where it is told the same at every step.
    pub(crate) fn train_labels(&self) -> Option<Vec<i64>> {
        self.recipe.data.labels.of(&self.set, &self.split.train)
    }

    /// True labels of the held-out images and how many classes there are, for data sets with labels.
    pub(crate) fn held_out_labels(&self) -> Option<(Vec<i64>, usize)> {
        let labels = self.set.labels.as_ref()?;
        let classes = labels.iter().max()? + 1;
        Some((self.split.held_out.iter().map(|i| labels[*i]).collect(), classes as usize))
    }

    /// Batches as the model is given them, with what it is told of them.
    pub(crate) fn encoded(&self, batches: Batches) -> Result<Box<dyn BatchSource>> {
        let source = self.space.source(self.recipe, batches, self.seed)?;
        self.captioned(match self.drawn_classes()? {
            None => source,
            Some(classes) => {
                let seed = (stream(self.seed, "labels", 0, 0), 0);
                Box::new(
                    DrawnLabels::new(source, self.of_examples(&classes), seed)
                        .map_err(|e| e.within("data"))?,
                )
            }
        })
    }

    /// The classes of each training image, of which it is told one at a step.
    fn drawn_classes(&self) -> Result<Option<Vec<Vec<i64>>>> {
        let of = self.classes.as_ref().map(|classes| classes.of(&self.split.train));
        Ok(of.transpose().map_err(|e| e.within("data.labels"))?)
    }

    fn batches_of(&self, size: usize) -> Result<Batches> {
        let (set, indices): (Rc<dyn Examples>, Vec<usize>) = match &self.latents {
            Some(latents) => (latents.clone(), (0..latents.len()).collect()),
            None => (self.set.clone(), self.split.train.clone()),
        };
        let seed = stream(self.seed, "data", 0, 0);
        let batches = Batches::new(set, indices, size, seed, (0, 1), self.device);
        let labels = self.train_labels().map(|labels| self.of_examples(&labels));
        Ok(batches.map_err(|e| e.within("train"))?.labelled(labels).map_err(|e| e.within("data"))?)
    }

    /// What every training image has, for each of the examples: cached latents are of several versions of the images, all
    /// images once and then again.
    fn of_examples<T: Clone>(&self, images: &[T]) -> Vec<T> {
        let n = self.latents.as_ref().map_or(images.len(), |latents| latents.len());
        images.iter().cloned().cycle().take(n).collect()
    }

    fn observers(
        &self,
        model: &Rc<Preconditioned>,
        sink: &Rc<ArmSink>,
        bar: &Bar,
        (looks, folder): (&Looks, &Path),
    ) -> Result<Vec<Box<dyn Observer>>> {
        let recipe = self.recipe;
        let validator = Validator {
            model: model.clone(),
            sets: self.validation_sets()?,
            every: recipe.validation.every,
            sink: sink.clone(),
            latest: None,
        };
        let validator: Box<dyn Observer> = match recipe.validation.early_stopping {
            Some(stopping) => {
                let stopping = EarlyStopping::new(validator, stopping);
                Box::new(stopping.map_err(|e| e.within("validation.early_stopping"))?)
            }
            None => Box::new(validator),
        };
        let monitor = monitor(self, looks, model.clone(), sink.clone())?;
        let kept = recipe.checkpoint.averages_every;
        let kept = kept.map(|every| Box::new(KeptAverages::new(&folder.join("averages"), every)) as _);
        let mut observers: Vec<Box<dyn Observer>> = vec![
            Box::new(TrainLogger::new(recipe.train.log_every, sink.clone())),
            validator,
            monitor,
            Box::new(Progress::new(bar.clone(), format!("{} seed {}", self.name, self.seed))),
        ];
        observers.extend(kept);
        Ok(observers)
    }

    /// True classes of the training and of the held-out images, whatever the model is told.
    pub(crate) fn labels(&self) -> Option<[Tensor; 2]> {
        let all = self.set.labels.as_ref()?;
        let of = |index: &[usize]| Tensor::from_slice(&index.iter().map(|i| all[*i]).collect::<Vec<_>>());
        Some([of(&self.split.train), of(&self.split.held_out)])
    }

    /// As many images of both sets; a training set that is smaller is repeated, with fresh noise for each repetition.
    fn validation_sets(&self) -> heldout_core::Result<ValidationSets> {
        let n = (self.recipe.validation.images as i64).min(self.held_out.size()[0]);
        Ok(ValidationSets {
            train: self.told(Side::Train, n)?,
            held_out: self.told(Side::HeldOut, n)?,
            log_snr: self.recipe.validation.log_snr.clone(),
            batch: self.recipe.sample.batch_size as i64,
            seed: stream(self.seed, "validation", 0, 0),
        })
    }

    /// Trains from the newest whole checkpoint in its folder, evaluates, and writes `arm.json`.
    pub(crate) fn run(&self, folder: &Path, bar: &Bar, interrupt: &AtomicBool) -> Result<ArmEnding> {
        write_atomically(
            &folder.join("shape.json"),
            serde_json::to_string(&self.space.examples)?.as_bytes(),
        )?;
        self.texts.as_ref().map_or(Ok(()), |texts| texts.prompts.write(folder))?;
        bar.phase(&format!("{} seed {}", self.name, self.seed));
        let Parts { model, adaptation, schedule, parameters, mut data, mut objective, mut update } =
            self.parts()?;
        let kept = &self.recipe.checkpoint;
        let fingerprint = self.recipe.fingerprint(self.seed);
        let mut checkpoints =
            Checkpoints::new(&folder.join("checkpoints"), &fingerprint, kept.every, kept.keep)?;
        let loaded = checkpoints.newest()?;
        let from = loaded.as_ref().map_or(0, |l| l.step);
        let sink = Rc::new(ArmSink::open(folder, self.name, self.seed, from)?);
        let looks = Looks::open(self)?;
        let mut observers = self.observers(&model, &sink, bar, (&looks, folder))?;
        let mut training = Training {
            data: data.as_mut(),
            objective: &mut objective,
            update: update.as_mut(),
            observers: &mut observers,
            checkpoints: Some(&mut checkpoints),
            stopped: None,
        };
        go_on(&mut training, loaded, sink.as_ref(), bar, &format!("{} seed {}", self.name, self.seed))?;
        let total = self.recipe.train.steps;
        let until = self.recipe.train.stop_after.unwrap_or(total);
        let run = Run { seed: self.seed, rank: 0, from, until, total };
        let ending = train(run, training, interrupt)?;
        if matches!(ending, Ending::Interrupted(_)) {
            return Ok(ArmEnding::Interrupted);
        }
        let seconds = seconds_of(&observers);
        bar.phase(&format!("{} seed {}: evaluating", self.name, self.seed));
        let started = Instant::now();
        let evaluated = {
            let _guard = update.eval_weights();
            evaluate(self, (model.as_ref(), adaptation.as_ref()), schedule, &looks, folder)?
        };
        let seconds = seconds + started.elapsed().as_secs_f64();
        let (quality, notes) = (evaluated.quality.clone(), evaluated.notes.clone());
        let result = self.result(&sink, ending, evaluated, (seconds, parameters))?;
        let own = [("f_mem", &self.measurement(&result)), ("f_mem_transformed", &result.f_mem_transformed)];
        let others = result.metrics.iter().map(|(name, m)| (name.as_str(), m));
        for (metric, measurement) in own.into_iter().chain(others) {
            let samples = self.recipe.sample.samples;
            let (metric, measurement) = (metric.to_owned(), measurement.clone());
            sink.write_once(result.steps, Event::Metric { metric, samples, measurement })?;
        }
        sink.write_once(result.steps, quality)?;
        for message in notes {
            sink.write_once(result.steps, Event::Note { message })?;
        }
        write_atomically(&folder.join(RESULT), (serde_json::to_string_pretty(&result)? + "\n").as_bytes())?;
        bar.skip(total - result.steps.min(total));
        Ok(ArmEnding::Done)
    }

    fn measurement(&self, r: &ArmResult) -> heldout_core::Measurement {
        let estimate = |value, [lower, upper]: [f64; 2]| heldout_core::Estimate { value, lower, upper };
        heldout_core::Measurement {
            against_held_out: None,
            model: estimate(r.f_mem, r.f_mem_ci),
            floor: estimate(r.f_mem_floor, r.f_mem_floor_ci),
        }
    }

    fn result(
        &self,
        sink: &ArmSink,
        ending: Ending,
        e: Evaluated,
        (seconds, parameters): (f64, usize),
    ) -> Result<ArmResult> {
        let last = sink.last_validation();
        let Some(Event::Validation { log_snr, train, held_out, .. }) = last else {
            return Err(anyhow!("{}: no validation was made", self.name));
        };
        let levels = log_snr.iter().zip(train.iter().zip(&held_out));
        let gap_by_level: Vec<LevelGap> = levels
            .map(|(log_snr, (t, h))| LevelGap { log_snr: *log_snr, train: *t, held_out: *h, gap: h - t })
            .collect();
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let Some(quality) = QualityResult::of(e.quality) else {
            return Err(anyhow!("{}: no quality was measured", self.name));
        };
        let (steps, stopped) = match ending {
            Ending::Stopped(why) => (sink.last_step(), Some(why)),
            Ending::Finished | Ending::Interrupted(_) => {
                let config = &self.recipe.train;
                (config.stop_after.unwrap_or(config.steps), None)
            }
        };
        Ok(ArmResult {
            name: self.name.to_owned(),
            seed: self.seed,
            n_train: self.split.train.len(),
            steps,
            f_mem: e.exact.model.value,
            f_mem_ci: [e.exact.model.lower, e.exact.model.upper],
            f_mem_floor: e.exact.floor.value,
            f_mem_floor_ci: [e.exact.floor.lower, e.exact.floor.upper],
            f_mem_copier: e.copier,
            f_mem_transformed: e.transformed,
            quality,
            motion: e.motion.and_then(QualityResult::of),
            metrics: e.metrics,
            latent: e.latent,
            adapter: e.adapter,
            composed: e.composed,
            loss_train: mean(&train),
            loss_held_out: mean(&held_out),
            gap_by_level,
            seconds,
            peak_rss_bytes: peak_rss_bytes(),
            parameters,
            made_on: Some(MadeOn::here(self.device)),
            stopped,
        })
    }
}
