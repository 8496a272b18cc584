//! The noise that a pipeline samples from: of a seed, or of a file.

use anyhow::Result;
use heldout_core::{Error, NoiseStream};
use heldout_samplers::{Churn, SamplerConfig, SeededNoise};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Where noise comes from.
#[derive(Debug)]
pub(crate) enum Noise {
    /// Image `i` has the noise of the seed and of `i`.
    Seeded(u64),
    /// What another program drew.
    Given(GivenNoise),
}

/// Tensors of a file.
#[derive(Debug)]
pub(crate) struct GivenNoise {
    /// Unit noise that sampling starts from, `[N, C, h, w]`.
    initial: Tensor,
    /// Noise of the steps, `[K, N, C, h, w]`, for samplers that draw some.
    steps: Option<Tensor>,
}

/// Where a batch of images starts, and the noise of its steps.
pub(crate) type Drawn = (Tensor, Box<dyn NoiseStream>);

impl Noise {
    /// From a safetensors file with `initial` and, for samplers that draw noise, `steps`.
    pub(crate) fn read(path: &Path, sampler: &SamplerConfig, steps: usize) -> Result<Self> {
        let fail = |reason: String| Error::file(path, reason);
        let tensors = Tensor::read_safetensors(path).map_err(|e| fail(format!("is no safetensors: {e}")))?;
        let find = |name: &str| {
            let found = tensors.iter().find(|(n, _)| n == name);
            found.map(|(_, t)| t.to_kind(Kind::Float))
        };
        let initial =
            find("initial").ok_or_else(|| fail("initial: is missing: unit noise [N, C, h, w]".to_owned()))?;
        let drawn = find("steps");
        let of_step: Vec<i64> = [&[steps as i64][..], &initial.size()].concat();
        match &drawn {
            Some(drawn) if drawn.size() != of_step => {
                let reason = format!("steps of {:?}: {of_step:?} for {steps} steps", drawn.size());
                return Err(fail(reason).into());
            }
            None if draws(sampler) => {
                let reason = format!("steps: is missing: this sampler draws noise, {of_step:?}");
                return Err(fail(reason).into());
            }
            _ => {}
        }
        Ok(Self::Given(GivenNoise { initial, steps: drawn }))
    }

    /// What images `first..first + n` of `shape` start from, of this standard deviation, and what their steps draw.
    pub(crate) fn of(
        &self,
        first: usize,
        n: usize,
        std: f64,
        shape: &[i64; 3],
        device: Device,
    ) -> Result<Drawn> {
        match self {
            Self::Seeded(seed) => {
                let noise = SeededNoise { seed: *seed, first: first as u64 };
                Ok((noise.initial(n, shape, device) * std, Box::new(noise)))
            }
            Self::Given(given) => {
                let size = given.initial.size();
                if size.len() != 4 || size[1..] != shape[..] || (size[0] as usize) < first + n {
                    let reason = format!(
                        "initial of {size:?}: at least {} rows of {shape:?} are sampled here",
                        first + n
                    );
                    return Err(Error::config("--noise", reason).into());
                }
                let rows = |x: &Tensor, dim| x.narrow(dim, first as i64, n as i64);
                let x = rows(&given.initial, 0).to_device(device) * std;
                let steps = given.steps.as_ref().map(|steps| rows(steps, 1));
                Ok((x, Box::new(GivenSteps(steps))))
            }
        }
    }
}

/// Whether a sampler draws noise of its own.
fn draws(sampler: &SamplerConfig) -> bool {
    match sampler {
        SamplerConfig::Ddpm { .. } | SamplerConfig::DpmSolver2mSde => true,
        SamplerConfig::Ddim { eta } | SamplerConfig::EulerAncestral { eta } => *eta > 0.0,
        SamplerConfig::Euler { churn } | SamplerConfig::Heun { churn } => *churn != Churn::NONE,
        _ => false,
    }
}

/// The draws of some images; read when a sampler draws, which [`Noise::read`] has checked for.
#[derive(Debug)]
struct GivenSteps(Option<Tensor>);

impl NoiseStream for GivenSteps {
    fn draw(&mut self, x: &Tensor, step: u64) -> Tensor {
        let steps = self.0.as_ref().expect("a sampler that draws has the noise of its steps");
        steps.get(step as i64).to_device(x.device())
    }
}
