//! Weights of `|x_start_hat - x_start|^2` by noise level.

use heldout_core::{Error, Marginal, Result, Weighting};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A loss weighting; `SNR = alpha^2 / sigma^2`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossWeighting {
    /// `SNR`: the plain squared error of a network that predicts the noise; Ho et al. 2020, Eq. 14.
    Snr,
    /// `SNR + 1`: the plain squared error of a network that predicts `v`; Salimans and Ho 2022, section 4.
    SnrPlusOne,
    /// `min(SNR, gamma)`; Hang et al. 2023, Eq. 8; gamma 5 in the paper.
    MinSnr {
        /// The cap.
        gamma: f64,
    },
}

impl LossWeighting {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        match *self {
            Self::MinSnr { gamma } if !(gamma > 0.0 && gamma.is_finite()) => {
                Err(Error::config("gamma", format!("{gamma} is not a positive number")))
            }
            _ => Ok(()),
        }
    }
}

impl Weighting for LossWeighting {
    fn weight(&self, m: &Marginal) -> Tensor {
        let snr = (&m.alpha / &m.sigma).square();
        match *self {
            Self::Snr => snr,
            Self::SnrPlusOne => snr + 1.0,
            Self::MinSnr { gamma } => snr.clamp_max(gamma),
        }
    }
}
