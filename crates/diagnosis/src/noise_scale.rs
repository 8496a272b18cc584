//! The gradient noise scale: from which batch size on a larger one gains little.

use crate::gradient::{evaluate, gradient};
use heldout_core::Mean;
use heldout_core::{Batch, Clock, Error, Objective, Params, Result, stream};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How much work goes into a [`NoiseScale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoiseScaleConfig {
    /// Images of the small batch, at least 1.
    pub small: i64,
    /// Small batches that make the large one, at least 2.
    pub parts: u64,
    /// Pairs of a small and a large batch, at least 2.
    pub rounds: u64,
    /// Seed of the images that are drawn and of the objective's draws.
    pub seed: u64,
}

impl Default for NoiseScaleConfig {
    fn default() -> Self {
        Self { small: 16, parts: 16, rounds: 6, seed: 0 }
    }
}

impl NoiseScaleConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let fields = [("small", self.small as u64, 1), ("parts", self.parts, 2), ("rounds", self.rounds, 2)];
        match fields.into_iter().find(|(_, n, least)| n < least || *n > i64::MAX as u64) {
            None => Ok(()),
            Some((field, n, least)) => {
                Err(Error::config(field, format!("{n}: at least {least} is needed", n = n as i64)))
            }
        }
    }
}

/// The gradient's size beside its noise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct NoiseScale {
    /// `tr(Sigma) / |G|^2` in images, with its jackknife error. Batches that are much smaller average mostly noise; much larger
    /// ones cost more than they gain. `None` where so few rounds cannot tell `|G|^2` from 0: the scale is larger than they
    /// can show.
    pub noise_scale: Option<Mean>,
    /// `tr(Sigma)` over the largest `|G|^2` that is within two standard errors: the scale is hardly below this.
    pub at_least: f64,
    /// Estimate of `|G|^2`, the squared norm of the expected gradient; may be negative, being unbiased.
    pub gradient_squared: Mean,
    /// Estimate of `tr(Sigma)`, the variance of the gradient of one image, summed over weights.
    pub variance: Mean,
    /// Images of the two batches.
    pub batches: [i64; 2],
}

/// The simple noise scale of `objective` at the weights as they are, over draws of images from `images` (with replacement), of
/// noise levels and of noise.
///
/// McCandlish et al. 2018, Eq. 2.9; the unbiased pair of appendix A.1 from two batch sizes, each averaged over rounds before
/// the ratio is taken.
pub fn noise_scale(
    params: &Params,
    objective: &mut dyn Objective,
    images: &Batch,
    clock: Clock,
    config: NoiseScaleConfig,
) -> Result<NoiseScale> {
    config.check()?;
    if images.is_empty() {
        return Err(Error::config("images", "no images to draw from"));
    }
    let (small, large) = (config.small as f64, config.small as f64 * config.parts as f64);
    let (mut squares, mut variances) = (Vec::new(), Vec::new());
    for round in 0..config.rounds {
        let [of_small, of_large] = squared_norms(params, objective, images, clock, (config, round))?;
        squares.push((large * of_large - small * of_small) / (large - small));
        variances.push((of_small - of_large) / (1.0 / small - 1.0 / large));
    }
    let [gradient_squared, variance] = [&squares, &variances].map(|x| Mean::of(&Tensor::from_slice(x)));
    let largest = gradient_squared.value + 2.0 * gradient_squared.standard_error;
    Ok(NoiseScale {
        noise_scale: jackknife(&variances, &squares),
        at_least: if variance.value > 0.0 && largest > 0.0 { variance.value / largest } else { 0.0 },
        gradient_squared,
        variance,
        batches: [config.small, config.small * config.parts as i64],
    })
}

/// Mean squared norm of the gradient of the small batches of a round, and that of their mean.
fn squared_norms(
    params: &Params,
    objective: &mut dyn Objective,
    images: &Batch,
    clock: Clock,
    (config, round): (NoiseScaleConfig, u64),
) -> Result<[f64; 2]> {
    let weights = params.handles();
    let norm =
        |g: &[Tensor]| -> f64 { g.iter().map(|g| g.square().sum(Kind::Double).double_value(&[])).sum() };
    let (mut sum, mut of_small): (Option<Vec<Tensor>>, f64) = (None, 0.0);
    for part in 0..config.parts {
        tch::manual_seed(stream(config.seed, "noise scale images", round, part) as i64);
        let rows = Tensor::randint(images.len(), [config.small], (Kind::Int64, images.x_start.device()));
        let seed = stream(config.seed, "noise scale", round, part);
        let loss = evaluate(objective, &images.select(&rows), clock, seed)?.loss;
        let g = gradient(&loss, &weights, false, false)?;
        of_small += norm(&g) / config.parts as f64;
        sum = Some(match sum {
            None => g,
            Some(sum) => sum.iter().zip(&g).map(|(a, b)| a + b).collect(),
        });
    }
    let of_large = norm(&sum.unwrap_or_default()) / (config.parts as f64).powi(2);
    Ok([of_small, of_large])
}

/// `mean(a) / mean(b)` with its error over rounds (Efron and Stein 1981), while all of the denominators are above 0.
fn jackknife(a: &[f64], b: &[f64]) -> Option<Mean> {
    let n = a.len() as f64;
    let (whole_a, whole_b): (f64, f64) = (a.iter().sum(), b.iter().sum());
    let without = |(a, b): (&f64, &f64)| (whole_b - b > 0.0).then(|| (whole_a - a) / (whole_b - b));
    let left: Vec<f64> = a.iter().zip(b).map(without).collect::<Option<_>>()?;
    if whole_b <= 0.0 {
        return None;
    }
    let mean = left.iter().sum::<f64>() / n;
    let squares: f64 = left.iter().map(|r| (r - mean).powi(2)).sum();
    Some(Mean { value: whole_a / whole_b, standard_error: ((n - 1.0) / n * squares).sqrt() })
}
