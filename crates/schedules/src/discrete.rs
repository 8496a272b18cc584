//! Discrete variance-preserving schedules, given by their betas.

use heldout_core::{Error, Marginal, NoiseSchedule, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;
use tch::Tensor;

/// A noise schedule as a recipe writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NoiseScheduleConfig {
    /// Betas in equal steps from `beta_start` to `beta_end`; Ho et al. 2020, section 4: 1000, 1e-4, 0.02.
    Linear {
        /// Steps of the schedule.
        steps: usize,
        /// The first beta.
        beta_start: f64,
        /// The last beta.
        beta_end: f64,
    },
    /// `alpha_bar` follows a squared cosine, betas at most 0.999; Nichol and Dhariwal 2021, Eq. 17.
    Cosine {
        /// Steps of the schedule.
        steps: usize,
    },
}

impl NoiseScheduleConfig {
    /// The DDPM schedule of the paper.
    pub const DDPM: Self = Self::Linear { steps: 1000, beta_start: 1e-4, beta_end: 0.02 };

    /// Steps of the schedule.
    pub fn steps(&self) -> usize {
        match self {
            Self::Linear { steps, .. } | Self::Cosine { steps } => *steps,
        }
    }

    /// The schedule, or which field cannot be honoured.
    pub fn build(&self) -> Result<Discrete> {
        if !(2..=1_000_000).contains(&self.steps()) {
            return Err(Error::config("steps", format!("{} is not between 2 and 1000000", self.steps())));
        }
        match *self {
            Self::Linear { steps, beta_start, beta_end } => {
                let inside = |b: f64| b > 0.0 && b < 1.0;
                if !inside(beta_start) || !inside(beta_end) {
                    let reason = format!("{beta_start} to {beta_end}: betas lie strictly between 0 and 1");
                    return Err(Error::config("beta_start", reason));
                }
                let slope = (beta_end - beta_start) / (steps - 1) as f64;
                Discrete::from_betas((0..steps).map(|i| beta_start + slope * i as f64))
            }
            Self::Cosine { steps } => {
                let alpha_bar =
                    |i: usize| ((i as f64 / steps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                Discrete::from_betas((0..steps).map(|i| (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999)))
            }
        }
    }
}

/// `alpha^2 = alpha_bar`, the running product of `1 - beta`, on the grid `t = (step + 1) / steps`; Ho et al. 2020, Eq. 4.
///
/// Between the grid times `ln alpha_bar` is linear, which is the variance-preserving process with beta constant over
/// each step (Song et al. 2021, Eq. 11): grid values are exact, `t = 0` is clean data, and any solver can run on it.
/// The noise label is the step, `t * steps - 1`, so that networks trained with integer steps run unchanged.
#[derive(Debug)]
pub struct Discrete {
    /// `-ln alpha_bar` at `t = 0, 1/steps, .., 1`; f64, rising from 0.
    decay: Tensor,
    steps: i64,
}

impl Discrete {
    /// From betas strictly between 0 and 1, first step first.
    pub fn from_betas(betas: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut decay = vec![0.0];
        for beta in betas {
            if !(beta > 0.0 && beta < 1.0) {
                return Err(Error::config("betas", format!("{beta} is not strictly between 0 and 1")));
            }
            decay.push(decay[decay.len() - 1] - (-beta).ln_1p());
        }
        Ok(Self { steps: decay.len() as i64 - 1, decay: Tensor::from_slice(&decay) })
    }

    /// Running products of `1 - beta`, `[steps]`, f64.
    pub fn alphas_cumprod(&self) -> Tensor {
        (-self.decay.narrow(0, 1, self.steps)).exp()
    }

    /// Left knot, and decay at the left and the right knot, of the interval `index`.
    fn knots(&self, index: &Tensor) -> (Tensor, Tensor) {
        let decay = self.decay.to_device(index.device());
        (decay.index_select(0, index), decay.index_select(0, &(index + 1)))
    }
}

impl NoiseSchedule for Discrete {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let place = t * self.steps as f64;
        let index = place.floor().clamp(0.0, (self.steps - 1) as f64).to_kind(tch::Kind::Int64);
        let (left, right) = self.knots(&index);
        let rise = right - &left;
        let decay = left + (&place - &index) * &rise;
        let slope = rise * self.steps as f64;
        let alpha_bar = (-&decay).exp();
        let (alpha, sigma) = ((&decay * -0.5).exp(), (-(-decay).expm1()).sqrt());
        Marginal {
            d_alpha: &slope * &alpha * -0.5,
            d_sigma: slope * alpha_bar / (&sigma * 2.0),
            alpha,
            sigma,
            noise_label: place - 1.0,
        }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        let decay = -log_snr.log_sigmoid(); // alpha_bar = sigmoid(log_snr) where alpha^2 + sigma^2 = 1
        let grid = self.decay.to_device(log_snr.device());
        let index =
            (decay.searchsorted(&grid, false, true, "right", None::<Tensor>) - 1).clamp(0, self.steps - 1);
        let (left, right) = self.knots(&index);
        (&index + (decay - &left) / (right - left)) / self.steps as f64
    }
}
