//! Gradient noise.

use heldout_core::{
    Batch, Clock, Curve, CurveConfig, Error, Evaluation, Gradient, Objective, Params, Result, persists_inner,
};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of [`GradientNoise`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct GradientNoiseConfig {
    /// Variance at the first step; 0.01, 0.3 or 1 in the paper.
    pub eta: CurveConfig,
    /// How fast it falls; 0.55 in the paper.
    #[serde(default = "gamma")]
    pub gamma: f64,
}

fn gamma() -> f64 {
    0.55
}

impl GradientNoiseConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        self.eta.check("eta", 0.0, f64::INFINITY)?;
        if self.gamma >= 0.0 && self.gamma.is_finite() {
            return Ok(());
        }
        Err(Error::config("gamma", format!("{} is not a number from 0 up", self.gamma)))
    }
}

/// Adds Gaussian noise of variance `eta / (1 + step)^gamma` to every gradient; Neelakantan et al. 2015, Eq. 1.
///
/// Law: at `eta` 0 it is its inner gradient.
#[derive(Debug)]
pub struct GradientNoise<G> {
    /// What computes the gradient.
    pub inner: G,
    /// Its settings.
    pub config: GradientNoiseConfig,
}

persists_inner!(GradientNoise<G>);

impl<G: Gradient> Gradient for GradientNoise<G> {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        let evaluation = self.inner.gradient(params, objective, batch, clock)?;
        let variance = self.config.eta.at(clock) / (1.0 + clock.step as f64).powf(self.config.gamma);
        if variance > 0.0 {
            let deviation = variance.sqrt();
            let add = |g: Tensor| drop(g.shallow_clone().g_add_(&(g.randn_like() * deviation)));
            tch::no_grad(|| params.grads().for_each(add));
        }
        Ok(evaluation)
    }
}
