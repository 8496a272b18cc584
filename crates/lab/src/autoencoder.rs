//! Training of autoencoders: from a recipe to a folder that diffusers opens, with what it loses of images that it has not
//! seen.

mod quality;
mod recipe;

pub use quality::ReconstructionQuality;
pub use recipe::{AutoencoderRecipe, KeptCheckpoints, PerceptualConfig, ReconstructionConfig};

use crate::dirs::project_root;
use crate::evaluate::{grid, save_png};
use crate::machine::peak_rss_bytes;
use crate::networks::build;
use crate::progress::{Bar, Progress, go_on, seconds_of};
use crate::sink::ArmSink;
use crate::study::{Lock, holder};
use anyhow::{Result, anyhow};
use heldout_adapters::copy_weights;
use heldout_core::{Error, FeatureExtractor, Observer, Params, Update, stream};
use heldout_data::{Batches, ImageSet, Split, find, to_bytes};
use heldout_features::{FeaturesConfig, Lpips};
use heldout_train::{Checkpoints, Ending, Run, TrainLogger, Training, train, write_atomically};
use heldout_vae::{AutoencoderObjective, FrozenMaps, LatentStatistics, ObjectiveParts, Perceptual};
use heldout_weights::AutoencoderModel;
use quality::{Judges, Reconstructions, quality, reconstructions};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tch::{Device, Tensor};

/// The arm's name in records.
const ARM: &str = "autoencoder";
/// Images of the picture of reconstructions.
const SHOWN: i64 = 32;

/// What to train.
#[derive(Debug)]
pub struct AutoencoderRequest<'a> {
    /// The recipe.
    pub recipe: &'a AutoencoderRecipe,
    /// The run folder; gone on with where it holds a run of this recipe that was cut.
    pub folder: &'a Path,
    /// Where tensors live.
    pub device: Device,
    /// Set by signals.
    pub interrupt: &'a AtomicBool,
}

/// `autoencoder.json`: what a trained autoencoder is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AutoencoderResult {
    /// Version of this format.
    pub format: u32,
    /// The recipe's name.
    pub recipe: String,
    /// Training images.
    pub n_train: usize,
    /// Steps done.
    pub steps: u64,
    /// Of as many training images as there are held-out ones in the measurement.
    pub train: ReconstructionQuality,
    /// Of images that it has not seen: what it is worth.
    pub held_out: ReconstructionQuality,
    /// Held-out minus training error per pixel: how much of it is learned by heart.
    pub l1_gap: f64,
    /// Latents of the training images, before they are scaled.
    pub latents: LatentStatistics,
    /// Latents of held-out images after the scale that was measured on training images.
    pub scaled_held_out_latents: LatentStatistics,
    /// Trained numbers.
    pub parameters: usize,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Largest resident memory of the process so far.
    pub peak_rss_bytes: u64,
}

/// Trains, measures, and writes `autoencoder/` (a folder of diffusers with the scale of its latents), `autoencoder.json` and
/// `reconstructions.png`; `None` if a signal came, after the state was saved.
pub fn train_autoencoder(request: &AutoencoderRequest<'_>) -> Result<Option<AutoencoderResult>> {
    let AutoencoderRequest { recipe, folder, device, interrupt } = *request;
    let data = Data::open(recipe, device)?;
    tch::manual_seed(stream(recipe.seed, "initial weights", 0, 0) as i64);
    let model =
        AutoencoderModel::fresh(recipe.autoencoder.clone(), device).map_err(|e| e.within("autoencoder"))?;
    model.config.latent_shape(data.shape).map_err(|e| e.within("autoencoder"))?;
    let mut objective = objective(recipe, &model, &data, device)?;
    let params = Params::of(&model.vars);
    let parameters = params.count();
    let mut update = recipe.regularization.update(&recipe.train, params)?;
    let batches = Batches::new(
        data.set.clone(),
        data.split.train.clone(),
        recipe.train.batch_size,
        stream(recipe.seed, "data", 0, 0),
        (0, 1),
        device,
    );
    let batches = batches.map_err(|e| e.within("train"))?;
    let mut source = recipe.regularization.source(batches, data.shape, recipe.seed)?;

    prepare(recipe, folder)?;
    let Some(_lock) = lock(folder, interrupt)? else { return Ok(None) };
    let fingerprint = recipe.fingerprint()?;
    let kept = &recipe.checkpoint;
    let mut checkpoints = Checkpoints::new(&folder.join("checkpoints"), &fingerprint, kept.every, kept.keep)?;
    let loaded = checkpoints.newest()?;
    let from = loaded.as_ref().map_or(0, |l| l.step);
    let sink = Rc::new(ArmSink::open(folder, ARM, recipe.seed, from)?);
    let bar = Bar::new(recipe.train.steps);
    bar.phase(&recipe.name);
    let mut observers: Vec<Box<dyn Observer>> = vec![
        Box::new(TrainLogger::new(recipe.train.log_every, sink.clone())),
        Box::new(Reconstructions {
            model: model.network.clone(),
            train: data.train.shallow_clone(),
            held_out: data.held_out.shallow_clone(),
            every: recipe.validation.every,
            batch: recipe.validation.batch_size as i64,
            sink: sink.clone(),
            latest: None,
        }),
        Box::new(Progress::new(bar.clone(), recipe.name.clone())),
    ];
    let mut training = Training {
        data: source.as_mut(),
        objective: &mut objective,
        update: update.as_mut(),
        observers: &mut observers,
        checkpoints: Some(&mut checkpoints),
        stopped: None,
    };
    go_on(&mut training, loaded, sink.as_ref(), &bar, &recipe.name)?;
    let until = recipe.train.stop_after.unwrap_or(recipe.train.steps);
    let run = Run { seed: recipe.seed, rank: 0, from, until, total: recipe.train.steps };
    let ending = train(run, training, interrupt)?;
    bar.finish();
    if matches!(ending, Ending::Interrupted(_)) {
        return Ok(None);
    }
    let seconds = seconds_of(&observers);
    // The averaged weights are the ones that leave; what the objective trained beside them stays behind.
    let mut leaving = AutoencoderModel::fresh(model.config.clone(), device)?;
    {
        let _guard = update.eval_weights();
        copy_weights(&model.vars, &leaving.vars, &[])?;
    }
    finish(request, &data, &mut leaving, (parameters, seconds)).map(Some)
}

/// Images, opened and divided.
struct Data {
    set: Rc<ImageSet>,
    split: Split,
    shape: [i64; 3],
    /// As many images of both sets.
    train: Tensor,
    held_out: Tensor,
}

impl Data {
    fn open(recipe: &AutoencoderRecipe, device: Device) -> Result<Self> {
        let set = Rc::new(ImageSet::open(&find(&recipe.data.name, &project_root().join("datasets"))?)?);
        if set.frames > 1 {
            let reason = format!("{} holds clips: an autoencoder takes images", recipe.data.name);
            return Err(anyhow!(Error::config("data.name", reason)));
        }
        let split = Split::new(&set, recipe.data.split).map_err(|e| e.within("data.split"))?;
        let n = recipe.validation.images.min(split.held_out.len()).min(split.train.len());
        let (train, held_out) =
            (set.tensor(&split.train[..n], device)?, set.tensor(&split.held_out[..n], device)?);
        let shape = set.shape.map(|n| n as i64);
        Ok(Self { set, split, shape, train, held_out })
    }
}

/// The folder with its recipe, where it is empty or of the same recipe.
fn prepare(recipe: &AutoencoderRecipe, folder: &Path) -> Result<()> {
    let path = folder.join("recipe.toml");
    let text = toml::to_string(recipe)?;
    if fs::read_to_string(&path).is_ok_and(|found| found == text) {
        return Ok(());
    }
    if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
        let reason = "is not empty and holds no run of this recipe: choose another --out";
        return Err(anyhow!(Error::file(folder, reason)));
    }
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    Ok(write_atomically(&path, text.as_bytes())?)
}

/// One process trains it at a time; two studies may want the same one. None if a signal came.
fn lock(folder: &Path, interrupt: &AtomicBool) -> Result<Option<Lock>> {
    let free = Lock::take(folder)?;
    if free.is_none() {
        eprintln!("{}: waiting for process {}, which trains it", folder.display(), holder(folder));
        return Lock::wait(folder, Duration::MAX, interrupt);
    }
    Ok(free)
}

fn objective(
    recipe: &AutoencoderRecipe,
    model: &AutoencoderModel,
    data: &Data,
    device: Device,
) -> Result<AutoencoderObjective> {
    let network = |field: &str, config: &FeaturesConfig| -> Result<Rc<dyn FeatureExtractor>> {
        Ok(Rc::from(build(config, None, device).map_err(|e| e.within(field))?))
    };
    let perceptual = match &recipe.perceptual {
        None => None,
        Some(PerceptualConfig::Features { network: config }) => {
            Some(Perceptual::of_features(network("perceptual.network", config)?))
        }
        Some(PerceptualConfig::Lpips { trunk, heads }) => {
            let lpips = Lpips::open(trunk, heads, device)?;
            Some(Perceptual::new(move |a, b| lpips.distance(a, b)))
        }
    };
    let frozen = match &recipe.alignment {
        None => None,
        Some(config) => {
            let network = network("alignment", config)?;
            let maps = move |x: &Tensor| {
                let found = network.extract(x)?;
                found.spatial.filter(|maps| maps.dim() == 4).ok_or_else(|| {
                    let reason = format!("{}: its features have no places: take another", network.name());
                    Error::config("alignment", reason)
                })
            };
            let example = Tensor::zeros([1, 3, data.shape[1], data.shape[2]], (tch::Kind::Float, device));
            let width = tch::no_grad(|| maps(&example))?.size()[1];
            Some(FrozenMaps::new(width, maps))
        }
    };
    let built = recipe.objective.build(ObjectiveParts {
        model: model.network.clone(),
        images: data.shape,
        vars: &(model.vars.root() / "objective"),
        seed: recipe.seed,
        optimizer: &|params| crate::parts::CRITIC.build(params),
        perceptual,
        frozen,
    });
    Ok(built.map_err(|e| e.within("objective"))?)
}

/// Measures the model, gives it the scale of its latents, and writes all down.
fn finish(
    request: &AutoencoderRequest<'_>,
    data: &Data,
    model: &mut AutoencoderModel,
    (parameters, seconds): (usize, f64),
) -> Result<AutoencoderResult> {
    let AutoencoderRequest { recipe, folder, device, .. } = *request;
    let batch = recipe.validation.batch_size;
    let features = recipe.validation.features.as_ref();
    let features =
        features.map(|config| build(config, None, device).map_err(|e| e.within("validation"))).transpose()?;
    let lpips = match &recipe.perceptual {
        Some(PerceptualConfig::Lpips { trunk, heads }) => Some(Lpips::open(trunk, heads, device)?),
        _ => None,
    };
    let judges = Judges { features, lpips };
    let of = |images: &Tensor| -> Result<(Tensor, ReconstructionQuality)> {
        let seen = reconstructions(model.network.as_ref(), images, batch as i64);
        let found = quality(&seen, images, &judges, batch as i64)?;
        Ok((seen, found))
    };
    let ((_, on_train), (seen, on_held_out)) = (of(&data.train)?, of(&data.held_out)?);
    let n = SHOWN.min(seen.size()[0]);
    // Each image above what became of it.
    let pairs = Tensor::stack(&[data.held_out.narrow(0, 0, n), seen.narrow(0, 0, n)], 1).flatten(0, 1);
    save_png(&grid(&to_bytes(&pairs).to_device(Device::Cpu)), &folder.join("reconstructions.png"))?;

    let statistics = |model: &AutoencoderModel, index: &[usize]| {
        let images = index.chunks(batch).map(|rows| data.set.tensor(rows, device));
        LatentStatistics::measure(model.network.as_ref(), images).map_err(|e| e.within("latents"))
    };
    let latents = statistics(model, &data.split.train)?;
    model.normalize_latents(&latents)?;
    let scaled = statistics(model, &data.split.held_out)?;
    model.save(&folder.join("autoencoder"))?;
    let result = AutoencoderResult {
        format: 1,
        recipe: recipe.name.clone(),
        n_train: data.split.train.len(),
        steps: recipe.train.stop_after.unwrap_or(recipe.train.steps),
        l1_gap: on_held_out.l1 - on_train.l1,
        train: on_train,
        held_out: on_held_out,
        latents,
        scaled_held_out_latents: scaled,
        parameters,
        seconds,
        peak_rss_bytes: peak_rss_bytes(),
    };
    let text = serde_json::to_string_pretty(&result)? + "\n";
    write_atomically(&folder.join("autoencoder.json"), text.as_bytes())?;
    Ok(result)
}
