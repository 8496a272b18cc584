//! Why a trained model stands where it stands.

mod table;

use crate::arm::Arm;
use crate::conditions::Side;
use crate::dirs::project_root;
use crate::recipe::Recipe;
use crate::sample::{Opened, arm_folder, open, recipe_of, space_of};
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use heldout_core::{Batch, Clock, Error, Input, NoiseSchedule, Params, Preconditioned, like, stream};
use heldout_data::to_unit_range;
use heldout_diagnosis::{
    Barrier, Curvature, CurvatureConfig, Labels, LevelDistance, LevelGap, ModeCoverage, NoiseScale,
    NoiseScaleConfig, PairedSets, barrier, curvature, denoiser_distance, loss_gap, mode_coverage,
    noise_scale, receptive_field,
};
use heldout_metrics::{Copies, EmpiricalDenoiser, MemorizedFraction};
use heldout_regularization::Gaussian;
use heldout_train::DenoisingObjective;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// Images over which a receptive field is averaged.
pub(crate) const FIELD_IMAGES: i64 = 16;
/// Training images of the loss whose curvature is taken, at most.
const CURVATURE_IMAGES: usize = 64;
/// Places on the line to another model.
const POSITIONS: usize = 11;
/// Real images whose class is predicted for the modes, of each set, at most.
const MODE_IMAGES: i64 = 2000;

/// What to diagnose.
#[derive(Debug)]
pub struct DiagnoseRequest<'a> {
    /// An arm's folder, or one of its checkpoints.
    pub model: &'a Path,
    /// Another one of the same architecture, for the barrier.
    pub other: Option<&'a Path>,
    /// Noise levels, evenly between the ends of the recipe's validation.
    pub levels: usize,
    /// Held-out images, and as many training images; all held-out images if there are fewer.
    pub images: usize,
    /// Of all draws.
    pub seed: u64,
    /// Which of the weights, of both.
    pub weights: &'a WeightsChoice,
    /// Where tensors live.
    pub device: Device,
}

/// Why a model stands where it stands.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// As it was asked for.
    pub model: PathBuf,
    /// Steps that it was trained for.
    pub step: u64,
    /// Its training images.
    pub n_train: i64,
    /// Held-out images that were used, and as many rows of training images.
    pub n_held_out: i64,
    /// Held-out minus training loss, per noise level.
    pub loss_gap: Vec<LevelGap>,
    /// Distance from the closed-form denoiser of the training set, per noise level.
    pub denoiser_distance: Vec<LevelDistance>,
    /// How far the network looks, per noise level; levels at which its output does not depend on its input are left out.
    pub receptive_field: Vec<FieldSize>,
    /// Of the recipe's loss without techniques and penalties, on training images.
    pub curvature: Curvature,
    /// Of the same loss.
    pub noise_scale: NoiseScale,
    /// Classes of the arm's final samples beside those of held-out images, each by its nearest image in another part of the
    /// held-out set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modes: Option<ModeCoverage>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modes_absent: Option<String>,
    /// The loss on the line to the other model, on this model's images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub barrier: Option<Barrier>,
}

/// An effective receptive field at one noise level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FieldSize {
    /// `ln(alpha^2 / sigma^2)`.
    pub log_snr: f64,
    /// Side of the centred square with 95 % of the squared gradient, in pixels.
    pub side: i64,
    /// Side of the one with all of it.
    pub support: i64,
    /// Root mean square distance from the centre, weighted by the squared gradient, in pixels.
    pub radius: f64,
}

/// Opens an arm with its images and measures; nothing is written.
pub fn diagnose(request: &DiagnoseRequest<'_>) -> Result<Diagnosis> {
    let DiagnoseRequest { model: path, levels, images, seed, weights, device, .. } = *request;
    let least = [("--levels", levels, 1), ("--images", images, 2)];
    if let Some((flag, n, least)) = least.into_iter().find(|(_, n, least)| n < least) {
        return Err(anyhow!(Error::config(flag, format!("{n}: at least {least} is needed"))));
    }
    let folder = arm_folder(path)?;
    let recipe = recipe_of(&folder, &[])?;
    recipe.check()?;
    let arm = Arm::open("diagnosed", seed, &recipe, &project_root().join("datasets"), device)?;
    if space_of(&folder, &recipe, device)?.examples != arm.space.examples {
        let reason =
            format!("the model is of other images than {}: its data set has changed", recipe.data.name);
        return Err(anyhow!(Error::file(folder.join("shape.json"), reason)));
    }
    let opened = open(&folder, path, &recipe, &arm.space, weights, device)?;
    let Opened { vars, model, loss, step, .. } = opened;
    let (params, schedule) = (Params::of(&vars), loss.schedule.clone());

    let held_out = arm.told(Side::HeldOut, arm.held_out.size()[0].min(images as i64))?;
    let train = arm.told(Side::Train, arm.train.size()[0])?;
    let rows = recipe.sample.batch_size as i64;
    let sets = PairedSets::new(&train, &held_out, grid(&recipe.validation.log_snr, levels), rows, seed)
        .map_err(|e| e.within("data.split"))?;
    let copier = EmpiricalDenoiser::new(&arm.in_space.train, schedule.clone());
    let barrier = match request.other {
        Some(other) => Some(line(request, other, &recipe, &model, &params, &sets)?),
        None => None,
    };

    let clock = Clock { step, total: recipe.train.steps };
    let mut objective = DenoisingObjective {
        model: model.clone(),
        times: loss.times,
        noise: Box::new(Gaussian),
        weighting: loss.weighting,
        penalties: Vec::new(),
    };
    let n_train = arm.train.size()[0];
    let few = arm.batch_of(CURVATURE_IMAGES.min(images).min(n_train as usize))?;
    let config = CurvatureConfig { seed, ..CurvatureConfig::default() };
    let curvature = curvature(&params, &mut objective, &few, clock, config)?;
    let config = NoiseScaleConfig { seed, ..NoiseScaleConfig::default() };
    let all = arm.batch_of(n_train as usize)?;
    let noise_scale = noise_scale(&params, &mut objective, &all, clock, config)?;
    let (modes, modes_absent) = match modes(&arm, &folder, seed)? {
        Ok(modes) => (Some(modes), None),
        Err(reason) => (None, Some(reason)),
    };
    Ok(Diagnosis {
        model: path.to_owned(),
        step,
        n_train,
        n_held_out: held_out.len(),
        loss_gap: loss_gap(model.as_ref(), &sets)?,
        denoiser_distance: denoiser_distance(model.as_ref(), &copier, None, &sets)?,
        receptive_field: fields(&model, schedule.as_ref(), &held_out, sets.log_snr(), seed),
        curvature,
        noise_scale,
        modes,
        modes_absent,
        barrier,
    })
}

/// `n` levels, evenly between the ends of `levels`.
fn grid(levels: &[f64], n: usize) -> Vec<f64> {
    let (low, high) = levels.iter().fold((f64::MAX, f64::MIN), |(low, high), l| (low.min(*l), high.max(*l)));
    let middle = (low + high) / 2.0;
    let place = |i: usize| low + (high - low) * i as f64 / (n - 1) as f64;
    if n == 1 { vec![middle] } else { (0..n).map(place).collect() }
}

/// The barrier between a model and another one of its architecture.
fn line(
    request: &DiagnoseRequest<'_>,
    path: &Path,
    recipe: &Recipe,
    model: &Preconditioned,
    params: &Params,
    sets: &PairedSets,
) -> Result<Barrier> {
    let refuse =
        |reason: String| Err(anyhow!(Error::config("--other", format!("{}: {reason}", path.display()))));
    let folder = arm_folder(path)?;
    let theirs = recipe_of(&folder, &[])?;
    if theirs.schedule != recipe.schedule || theirs.objective.prediction != recipe.objective.prediction {
        return refuse(
            "was trained on another schedule or prediction: its weights mean another thing".to_owned(),
        );
    }
    let space = space_of(&folder, &theirs, request.device)?;
    let Opened { vars, .. } = open(&folder, path, &theirs, &space, request.weights, request.device)?;
    let other = Params::of(&vars);
    let named = |p: &Params| p.named().map(|(name, t)| (name.to_owned(), t.size())).collect::<Vec<_>>();
    let (ours, others) = (named(params), named(&other));
    if let Some((name, size)) =
        ours.iter().find(|p| !others.contains(p)).or(others.iter().find(|p| !ours.contains(p)))
    {
        return refuse(format!("is of another architecture: `{name}` {size:?} is not in both"));
    }
    Ok(barrier(model, params, [&params.snapshot(), &other.snapshot()], sets, POSITIONS)?)
}

/// The network's receptive field on noised images, at each level.
pub(crate) fn fields(
    model: &Preconditioned,
    schedule: &dyn NoiseSchedule,
    images: &Batch,
    log_snr: &[f64],
    seed: u64,
) -> Vec<FieldSize> {
    let Batch { x_start, cond, .. } = images.narrow(0, images.len().min(FIELD_IMAGES));
    let at = |(i, log_snr): (usize, &f64)| {
        tch::manual_seed(stream(seed, "receptive field", i as u64, 0) as i64);
        let level = Tensor::full([x_start.size()[0]], *log_snr, (Kind::Double, x_start.device()));
        let marginal = schedule.marginal(&schedule.time_of(&level));
        let scalings = model.parameterization.scalings(&marginal);
        let x_t = like(&marginal.alpha, &x_start) * &x_start
            + like(&marginal.sigma, &x_start) * x_start.randn_like();
        let x = like(&scalings.c_in, &x_t) * x_t;
        let noise_level = scalings.c_noise.to_kind(x.kind());
        let input = Input { x: &x, noise_level: &noise_level, cond: &cond, train: false };
        let field = receptive_field(model.backbone.as_ref(), input)?;
        let (side, support, radius) = (field.side(0.95), field.support(), field.radius(1.0));
        Some(FieldSize { log_snr: *log_snr, side, support, radius })
    };
    log_snr.iter().enumerate().filter_map(at).collect()
}

/// Classes of the final samples; or why they cannot be told.
///
/// The classifier is the nearest image, in pixels, of one half of the held-out set; it predicts the classes of the other half,
/// of training images and of samples alike.
fn modes(arm: &Arm<'_>, folder: &Path, seed: u64) -> Result<Result<ModeCoverage, String>> {
    let Some((labels, classes)) = arm.held_out_labels() else {
        return Ok(Err("the data set has no labels".to_owned()));
    };
    let path = folder.join("final.safetensors");
    if !path.is_file() {
        return Ok(Err("the arm has no final samples: it is not finished".to_owned()));
    }
    let tensors = Tensor::read_safetensors(&path).map_err(|e| Error::file(&path, format!("damaged: {e}")))?;
    let found = tensors.into_iter().find(|(name, _)| name == "samples");
    let (_, samples) = found.ok_or_else(|| Error::file(&path, "holds no samples: make the run again"))?;
    let middle = arm.held_out.size()[0] / 2;
    if middle < 2 {
        return Ok(Err(format!("{} held-out images are too few for a classifier", labels.len())));
    }
    let known = arm.held_out.narrow(0, 0, middle);
    let predict = |images: &Tensor| -> Result<Vec<i64>> {
        let pairs = MemorizedFraction { copies: Copies::Exact, seed }.pairs(images, &known)?;
        Ok(pairs.nearest.into_iter().map(|place| labels[place]).collect())
    };
    let first = |x: &Tensor| x.narrow(0, 0, x.size()[0].min(MODE_IMAGES));
    let others = arm.held_out.narrow(0, middle, arm.held_out.size()[0] - middle);
    let samples = predict(&to_unit_range(&samples.to_device(arm.device)))?;
    let (held_out, train) = (predict(&first(&others))?, predict(&first(&arm.train))?);
    let labels = Labels { samples: &samples, held_out: &held_out, train: Some(&train) };
    Ok(Ok(mode_coverage(labels, classes, seed)?))
}
