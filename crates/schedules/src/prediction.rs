//! What the network predicts.

use heldout_core::{Error, Marginal, NoiseSchedule, Parameterization, Result, Scalings};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The prediction target of a network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise; Ho et al. 2020, Eq. 14.
    Epsilon,
    /// The clean data ("sample" in diffusers); Ho et al. 2020, section 3.2.
    XStart,
    /// `v = alpha noise - sigma x_start`; Salimans and Ho 2022, section 4.
    V,
    /// `d x_t / d t = d_alpha x_start + d_sigma noise`; Lipman et al. 2023, Eq. 8: `noise - x_start` on straight lines.
    Velocity,
    /// Unit variance at the network's input and target at every noise level; Karras et al. 2022, Table 1, "EDM".
    Edm {
        /// Standard deviation of the data, 0.5 in the paper.
        sigma_data: f64,
    },
}

impl Prediction {
    /// Whether the prediction tells `x_start` on all of a schedule, up to its end in pure noise.
    pub fn check(&self, schedule: &dyn NoiseSchedule) -> Result<()> {
        if let Self::Edm { sigma_data } = *self
            && !(sigma_data > 0.0 && sigma_data.is_finite())
        {
            return Err(Error::config("sigma_data", format!("{sigma_data} is not a positive number")));
        }
        let s = self.scalings(&schedule.marginal(&Tensor::from_slice(&[1.0])));
        let usable = |x: &Tensor| x.double_value(&[0]).abs() < 1e6;
        if [&s.c_skip, &s.c_out, &s.c_in, &s.c_noise].into_iter().all(usable) {
            return Ok(());
        }
        let name = match self {
            Self::Epsilon => "epsilon",
            Self::XStart => "x_start",
            Self::V => "v",
            Self::Velocity => "velocity",
            Self::Edm { .. } => "edm",
        };
        let reason = format!("{name} says nothing of x_start where this schedule ends in pure noise: use v");
        Err(Error::config("prediction", reason))
    }
}

impl Parameterization for Prediction {
    fn scalings(&self, m: &Marginal) -> Scalings {
        let (alpha, sigma) = (&m.alpha, &m.sigma);
        let label = || m.noise_label.shallow_clone();
        let plain = |c_skip, c_out| Scalings { c_skip, c_out, c_in: alpha.ones_like(), c_noise: label() };
        match *self {
            Self::Epsilon => plain(alpha.reciprocal(), -(sigma / alpha)),
            Self::XStart => plain(alpha.zeros_like(), alpha.ones_like()),
            Self::V => {
                let total = alpha.square() + sigma.square(); // 1 on a variance-preserving schedule
                plain(alpha / &total, -(sigma / total))
            }
            Self::Velocity => {
                let turn = &m.d_sigma * alpha - sigma * &m.d_alpha;
                plain(&m.d_sigma / &turn, -(sigma / turn))
            }
            // In `x_t / alpha` and `sigma / alpha`, the paper's coordinates, with alpha multiplied out.
            Self::Edm { sigma_data } => {
                let signal: Tensor = alpha * sigma_data;
                let total = signal.square() + sigma.square();
                let norm = total.sqrt();
                Scalings {
                    c_skip: signal * sigma_data / total,
                    c_out: sigma * sigma_data / &norm,
                    c_in: norm.reciprocal(),
                    c_noise: (sigma / alpha).log() * 0.25,
                }
            }
        }
    }
}
