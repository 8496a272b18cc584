//! Recipe to objects.

use crate::recipe::{Recipe, SampleConfig, SamplerConfig};
use heldout_core::{Cond, Denoiser, NoiseSchedule, Preconditioned, Result, Sampler, stream};
use heldout_samplers::{Clamped, Ddim, Ddpm, SeededNoise, linear_times};
use heldout_unet::UNet;
use std::rc::Rc;
use tch::{Device, Tensor, nn};

/// A freshly initialised model and its variables.
pub(crate) fn model(
    recipe: &Recipe,
    seed: u64,
    device: Device,
) -> Result<(nn::VarStore, Rc<Preconditioned>)> {
    tch::manual_seed(stream(seed, "initial weights", 0, 0) as i64);
    let vars = nn::VarStore::new(device);
    let backbone = UNet::new(&vars.root(), &recipe.model).map_err(|e| e.within("model"))?;
    let model = Preconditioned {
        backbone: Box::new(backbone),
        parameterization: Box::new(recipe.objective.prediction),
        schedule: Box::new(schedule(recipe)?),
    };
    Ok((vars, Rc::new(model)))
}

/// The forward process.
pub(crate) fn schedule(recipe: &Recipe) -> Result<impl NoiseSchedule + use<>> {
    recipe.schedule.build().map_err(|e| e.within("schedule"))
}

fn sampler(config: &SamplerConfig) -> Box<dyn Sampler> {
    match *config {
        SamplerConfig::Ddim { eta } => Box::new(Ddim { eta }),
        SamplerConfig::Ddpm { variance } => Box::new(Ddpm { variance }),
    }
}

/// Samples `first..first + n` of `seed`, `[n, C, H, W]` in `[-1, 1]`: the same however they are split into batches.
pub(crate) fn generate(
    denoiser: &dyn Denoiser,
    config: &SampleConfig,
    shape: [i64; 3],
    range: std::ops::Range<u64>,
    seed: u64,
    device: Device,
) -> Tensor {
    let sampler = sampler(&config.sampler);
    let denoiser = Clamped { inner: denoiser, limit: 1.0 };
    let times = linear_times(config.steps);
    let batch = |first: u64| {
        let n = (range.end - first).min(config.batch_size as u64) as usize;
        let mut noise = SeededNoise { seed, first };
        let x = noise.start(n, &shape, device);
        sampler.sample(&denoiser, x, &times, &Cond::default(), &mut noise, &mut |_| ())
    };
    let batches: Vec<Tensor> = tch::no_grad(|| range.clone().step_by(config.batch_size).map(batch).collect());
    Tensor::cat(&batches, 0).clamp(-1.0, 1.0)
}
