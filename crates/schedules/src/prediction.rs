//! What the network predicts.

use heldout_core::{Marginal, Parameterization, Scalings};
use serde::{Deserialize, Serialize};

/// The prediction target of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise; Ho et al. 2020, Eq. 14.
    Epsilon,
    /// `v = alpha noise - sigma x_start`; Salimans and Ho 2022, section 4.
    V,
}

impl Parameterization for Prediction {
    fn scalings(&self, m: &Marginal) -> Scalings {
        let (alpha, sigma) = (&m.alpha, &m.sigma);
        let (c_skip, c_out) = match self {
            Self::Epsilon => (alpha.reciprocal(), -(sigma / alpha)),
            Self::V => {
                let total = alpha.square() + sigma.square(); // 1 on a variance-preserving schedule
                (alpha / &total, -(sigma / total))
            }
        };
        Scalings { c_skip, c_out, c_in: alpha.ones_like(), c_noise: m.noise_label.shallow_clone() }
    }
}
