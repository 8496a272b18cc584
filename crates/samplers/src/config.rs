//! Samplers as recipes write them.

use crate::{
    Churn, Ddim, Ddpm, DormandPrince, DpmSolver2m, DpmSolver2mSde, DpmSolver2s, Euler, Heun, Lms, Plms,
    UniPc, Variance,
};
use heldout_core::{Error, Result, Sampler};
use serde::{Deserialize, Serialize};

/// A sampler as a recipe writes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum SamplerConfig {
    /// [`Ddpm`].
    Ddpm {
        /// Which variance.
        variance: Variance,
    },
    /// [`Ddim`].
    Ddim {
        /// Share of the posterior's noise, in `[0, 1]`.
        eta: f64,
    },
    /// [`Euler`].
    Euler {
        /// Fresh noise; none if left out.
        #[serde(default = "none", skip_serializing_if = "is_none")]
        churn: Churn,
    },
    /// [`Ddim`] under the name that k-diffusion gives it.
    EulerAncestral {
        /// Share of the posterior's noise, in `[0, 1]`.
        #[serde(default = "one")]
        eta: f64,
    },
    /// [`Heun`].
    Heun {
        /// Fresh noise; none if left out.
        #[serde(default = "none", skip_serializing_if = "is_none")]
        churn: Churn,
    },
    /// [`DpmSolver2m`].
    #[serde(rename = "dpm_solver_2m")]
    DpmSolver2m,
    /// [`DpmSolver2mSde`].
    #[serde(rename = "dpm_solver_2m_sde")]
    DpmSolver2mSde,
    /// [`DpmSolver2s`].
    #[serde(rename = "dpm_solver_2s")]
    DpmSolver2s,
    /// [`UniPc`].
    #[serde(rename = "unipc")]
    UniPc {
        /// 1 to 3.
        order: usize,
    },
    /// [`Lms`].
    Lms {
        /// 1 to 4.
        order: usize,
    },
    /// [`Plms`].
    Plms,
    /// [`DormandPrince`].
    DormandPrince {
        /// Error allowed in a step, relative.
        rtol: f64,
        /// Error allowed in a step, absolute.
        atol: f64,
    },
}

fn none() -> Churn {
    Churn::NONE
}

fn is_none(churn: &Churn) -> bool {
    *churn == Churn::NONE
}

fn one() -> f64 {
    1.0
}

impl SamplerConfig {
    /// The sampler, or which field cannot be honoured.
    pub fn build(&self) -> Result<Box<dyn Sampler>> {
        let within = |field: &str, x: f64, ok: bool, what: &str| {
            if ok { Ok(()) } else { Err(Error::config(field, format!("{x} is not {what}"))) }
        };
        Ok(match *self {
            Self::Ddpm { variance } => Box::new(Ddpm { variance }),
            Self::Ddim { eta } | Self::EulerAncestral { eta } => {
                within("eta", eta, (0.0..=1.0).contains(&eta), "in [0, 1]")?;
                Box::new(Ddim { eta })
            }
            Self::Euler { churn } => {
                churn.check()?;
                Box::new(Euler { churn })
            }
            Self::Heun { churn } => {
                churn.check()?;
                Box::new(Heun { churn })
            }
            Self::DpmSolver2m => Box::new(DpmSolver2m),
            Self::DpmSolver2mSde => Box::new(DpmSolver2mSde),
            Self::DpmSolver2s => Box::new(DpmSolver2s),
            Self::UniPc { order } => {
                within("order", order as f64, (1..=3).contains(&order), "1, 2 or 3")?;
                Box::new(UniPc { order })
            }
            Self::Lms { order } => {
                within("order", order as f64, (1..=4).contains(&order), "between 1 and 4")?;
                Box::new(Lms { order })
            }
            Self::Plms => Box::new(Plms),
            Self::DormandPrince { rtol, atol } => {
                for (field, x) in [("rtol", rtol), ("atol", atol)] {
                    within(field, x, x > 0.0 && x.is_finite(), "a positive number")?;
                }
                Box::new(DormandPrince { rtol, atol })
            }
        })
    }
}
