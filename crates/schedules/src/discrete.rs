//! Discrete variance-preserving schedules, given by their betas.

use crate::continuous::variance_preserving;
use heldout_core::{Error, Marginal, NoiseSchedule, Result};
use std::cell::RefCell;
use tch::{Device, Kind, Tensor};

/// `alpha^2 = alpha_bar`, the running product of `1 - beta`, on the grid `t = (step + 1) / steps`; Ho et al. 2020, Eq. 4.
///
/// Between the grid times `ln alpha_bar` is linear, which is the variance-preserving process with beta constant over
/// each step (Song et al. 2021, Eq. 11): grid values are exact, `t = 0` is clean data, and any solver can run on it.
/// A last step onto pure noise, where `ln alpha_bar` has no end, takes `alpha` there in a straight line.
/// The noise label is the step, `t * steps - 1`, so that networks trained with integer steps run unchanged.
#[derive(Debug)]
pub struct Discrete {
    /// `-ln alpha_bar` at `t = 0, 1/steps, .., 1`; f64, rising from 0, on the device of the last call.
    decay: RefCell<Tensor>,
    steps: i64,
    ends_in_noise: bool,
}

impl Discrete {
    /// From betas strictly between 0 and 1, first step first; the last may be 1: pure noise.
    pub fn from_betas(betas: impl IntoIterator<Item = f64>) -> Result<Self> {
        let mut decay = vec![0.0f64];
        for beta in betas {
            let last = decay[decay.len() - 1];
            if !(beta > 0.0 && beta <= 1.0 && last.is_finite()) {
                return Err(Error::config("betas", format!("{beta} is not strictly between 0 and 1")));
            }
            decay.push(last - (-beta).ln_1p());
        }
        if decay.len() == 1 {
            return Err(Error::config("betas", "none: at least one step is needed"));
        }
        Ok(Self {
            steps: decay.len() as i64 - 1,
            ends_in_noise: decay[decay.len() - 1].is_infinite(),
            decay: RefCell::new(Tensor::from_slice(&decay)),
        })
    }

    /// The same steps with `sqrt(alpha_bar)` moved and stretched to end at 0, its first value kept: the model is trained
    /// on pure noise, from which sampling starts; Lin et al. 2024, Algorithm 1.
    pub fn zero_terminal_snr(&self) -> Result<Self> {
        let alpha: Vec<f64> = Vec::try_from(self.alphas_cumprod().sqrt())?;
        let (first, last) = (alpha[0], alpha[alpha.len() - 1]);
        let alpha_bar = alpha.iter().map(|a| ((a - last) * first / (first - last)).powi(2));
        let mut before = 1.0;
        Self::from_betas(alpha_bar.map(|now| 1.0 - now / std::mem::replace(&mut before, now)))
    }

    /// Number of steps.
    pub fn steps(&self) -> usize {
        self.steps as usize
    }

    /// Running products of `1 - beta`, `[steps]`, f64.
    pub fn alphas_cumprod(&self) -> Tensor {
        (-self.decay.borrow().narrow(0, 1, self.steps)).exp()
    }

    /// The table on `device`; moved once, not at every call.
    fn table(&self, device: Device) -> Tensor {
        let mut table = self.decay.borrow_mut();
        if table.device() != device {
            *table = table.to_device(device);
        }
        table.shallow_clone()
    }
}

/// Decay at the left and the right knot of the interval `index`.
fn knots(table: &Tensor, index: &Tensor) -> (Tensor, Tensor) {
    (table.index_select(0, index), table.index_select(0, &(index + 1)))
}

impl NoiseSchedule for Discrete {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let place = t * self.steps as f64;
        let index = place.floor().clamp(0.0, (self.steps - 1) as f64).to_kind(Kind::Int64);
        let (left, right) = knots(&self.table(t.device()), &index);
        let part = &place - &index;
        let rise = right - &left;
        let mut log_alpha = (&left + &part * &rise) * -0.5;
        let mut d_alpha = log_alpha.exp() * &rise * (-0.5 * self.steps as f64);
        if self.ends_in_noise {
            let (last, alpha) = (rise.isinf(), (left * -0.5).exp());
            log_alpha = (alpha.log() + (-part).log1p()).where_self(&last, &log_alpha);
            d_alpha = (alpha * -(self.steps as f64)).where_self(&last, &d_alpha);
        }
        variance_preserving(&log_alpha, d_alpha, place - 1.0)
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        let decay = -log_snr.log_sigmoid(); // alpha_bar = sigmoid(log_snr) where alpha^2 + sigma^2 = 1
        let table = self.table(log_snr.device());
        let index =
            (decay.searchsorted(&table, false, true, "right", None::<Tensor>) - 1).clamp(0, self.steps - 1);
        let (left, right) = knots(&table, &index);
        let mut part = (&decay - &left) / (&right - &left);
        if self.ends_in_noise {
            part = (-((left - decay) * 0.5).expm1()).where_self(&right.isinf(), &part);
        }
        (index + part) / self.steps as f64
    }
}
