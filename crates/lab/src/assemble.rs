//! Recipe to objects.

use crate::adapter::{Adaptation, Bases, Site, build};
use crate::conditions::SampleConditions;
use crate::recipe::{Recipe, SampleConfig};
use crate::space::Space;
use heldout_core::{
    Cond, Denoiser, DenoisingPenalty, Error, NoiseSchedule, Preconditioned, Result, Scaled, TimeSampler,
    Weighting, stream,
};
use heldout_regularization::{MaskedInput, NullClass};
use heldout_samplers::{Clamped, SeededNoise};
use heldout_schedules::{LearnedUncertainty, TimesConfig, VarianceBound};
use std::rc::Rc;
use tch::{Device, Kind, Tensor, nn};

/// A freshly initialised model, its variables, and its loss.
pub(crate) struct Assembled {
    pub(crate) vars: nn::VarStore,
    pub(crate) model: Rc<Preconditioned>,
    pub(crate) loss: Loss,
    /// Of a recipe with an adapter.
    pub(crate) adaptation: Option<Adaptation>,
}

/// What a model of a recipe is trained by, and the schedule that it shares.
pub(crate) struct Loss {
    pub(crate) schedule: Rc<dyn NoiseSchedule>,
    pub(crate) times: Box<dyn TimeSampler>,
    pub(crate) weighting: Box<dyn Weighting>,
    pub(crate) penalties: Vec<DenoisingPenalty>,
}

impl Loss {
    /// With the variables that it trains, if any, under `vars`; or which field of the recipe cannot be honoured.
    pub(crate) fn new(recipe: &Recipe, vars: &nn::Path<'_>) -> Result<Self> {
        let config = &recipe.objective;
        let within = |field: &'static str| move |e: Error| e.within(field);
        let built = recipe.schedule.build_in(&(vars / "schedule")).map_err(within("schedule"))?;
        let (schedule, steps) = (built.schedule, recipe.schedule.steps());
        config.prediction.check(&schedule).map_err(within("objective"))?;
        config.weighting.check_on(&schedule).map_err(within("objective.weighting"))?;
        let weighting: Box<dyn Weighting> = match config.uncertainty_features {
            None => Box::new(config.weighting.clone()),
            Some(features) => {
                let learned =
                    LearnedUncertainty::new(&(vars / "uncertainty"), config.weighting.clone(), features);
                Box::new(learned.map_err(|_| {
                    Error::config(
                        "objective.uncertainty_features",
                        format!("{features}: at least 1 is needed"),
                    )
                })?)
            }
        };
        let times = match built.times {
            Some(_) if config.times != TimesConfig::Uniform => {
                let reason = "a dynamic schedule draws its own times: leave it out";
                return Err(Error::config("objective.times", reason));
            }
            Some(times) => times,
            None => config.times.build(&schedule, steps).map_err(within("objective.times"))?,
        };
        let mut penalties = Vec::from_iter(built.penalty);
        if let Some(weight) = config.variance_bound {
            let reason = "needs a discrete schedule";
            let steps = steps.ok_or_else(|| Error::config("objective.variance_bound", reason))?;
            penalties.push(Box::new(Scaled { inner: VarianceBound { steps }, weight }));
        }
        Ok(Self { schedule, times, weighting, penalties })
    }
}

/// The model of a recipe in its space, a function of the seed and of the bases, if it has an adapter.
pub(crate) fn model(
    recipe: &Recipe,
    space: &Space,
    (seed, bases): (u64, Option<&Bases>),
    device: Device,
) -> anyhow::Result<Assembled> {
    tch::manual_seed(stream(seed, "initial weights", 0, 0) as i64);
    let vars = nn::VarStore::new(device);
    let (mut backbone, adaptation) = match &recipe.adapter {
        None => (recipe.model.build(&vars.root()).map_err(|e| e.within("model"))?, None),
        Some(config) => {
            let (backbone, made) = build(config, Site { recipe, space, seed, device, bases }, &vars)?;
            (backbone, Some(made))
        }
    };
    if let Some(null) = recipe.regularization.null_class().filter(|_| recipe.model.classes() > 0) {
        backbone = Box::new(NullClass { inner: backbone, null });
    }
    if let Some(config) = &recipe.regularization.corruption {
        backbone = Box::new(MaskedInput::new(backbone, config, [space.shape[1], space.shape[2]], device)?);
    }
    let loss = Loss::new(recipe, &vars.root())?;
    let model = Preconditioned {
        backbone,
        parameterization: Box::new(recipe.objective.prediction),
        schedule: Box::new(loss.schedule.clone()),
    };
    Ok(Assembled { vars, model: Rc::new(model), loss, adaptation })
}

/// What the samples of a range are told, a row each.
pub(crate) type Told<'a> = dyn Fn(std::ops::Range<u64>) -> Result<Cond> + 'a;

/// Samples are told nothing.
pub(crate) fn untold(_: std::ops::Range<u64>) -> Result<Cond> {
    Ok(Cond::default())
}

/// A model that samples, with the guidance of the recipe or another one where it is told of texts.
pub(crate) fn guided<'a>(
    model: &'a dyn Denoiser,
    told: &SampleConditions,
    guidance: Option<f64>,
) -> Result<Box<dyn Denoiser + 'a>> {
    let Some(prompts) = &told.prompts else { return Ok(Box::new(model)) };
    Ok(Box::new(prompts.guided(model, guidance)?))
}

/// Samples `range` of `seed` in the space of the model, `[n, C, H, W]`: the same however they are split into batches.
pub(crate) fn generate(
    denoiser: &dyn Denoiser,
    config: &SampleConfig,
    (space, told): (&Space, &Told<'_>),
    range: std::ops::Range<u64>,
    seed: u64,
    device: Device,
) -> Result<Tensor> {
    let sampler = config.sampler.build()?;
    let limit = space.limit.unwrap_or(f64::INFINITY);
    let clamped = Clamped { inner: denoiser, limit };
    let denoiser: &dyn Denoiser = if limit.is_finite() { &clamped } else { denoiser };
    let times = config.grid.times(denoiser.schedule(), config.steps)?;
    let batch = |first: u64| {
        let n = (range.end - first).min(config.batch_size as u64) as usize;
        let mut noise = SeededNoise { seed, first };
        let x = noise.start(denoiser.schedule(), times[0], n, &space.shape, device);
        let cond = told(first..first + n as u64)?;
        sampler.sample(denoiser, x, &times, &cond, &mut noise, &mut |_| ())
    };
    let batches: Vec<Tensor> =
        tch::no_grad(|| range.clone().step_by(config.batch_size).map(batch).collect::<Result<_>>())?;
    let samples = Tensor::cat(&batches, 0);
    if !bool::try_from(samples.isfinite().all())? {
        let reason = "are not finite: the weights have diverged, or the sampler does with so few steps";
        return Err(Error::config("samples", reason));
    }
    Ok(if limit.is_finite() { samples.clamp(-limit, limit) } else { samples })
}

/// `n` rows from row `first` on, beginning again after the last.
pub(crate) fn rows_from(all: &Tensor, first: u64, n: i64) -> Tensor {
    let places = Tensor::arange(n, (Kind::Int64, all.device())) + first as i64;
    all.index_select(0, &places.remainder(all.size()[0]))
}
