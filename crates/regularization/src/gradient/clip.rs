//! Gradient clipping.

use heldout_core::{Batch, Clock, Error, Evaluation, Gradient, Objective, Params, Result, persists_inner};
use heldout_torch_ext::{grad_norm, scale_};
use serde::{Deserialize, Serialize};

/// Settings of [`Clip`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// The longest gradient that is left as it is.
    pub max_norm: f64,
}

impl ClipConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.max_norm > 0.0 && self.max_norm.is_finite() {
            return Ok(());
        }
        Err(Error::config("max_norm", format!("{} is not a positive number", self.max_norm)))
    }
}

/// Scales the whole gradient down to norm `max_norm` where it is longer; Pascanu et al. 2013, Algorithm 1.
///
/// Adds the norm before clipping to the terms, as `grad_norm`.
#[derive(Debug)]
pub struct Clip<G> {
    /// What computes the gradient.
    pub inner: G,
    /// Its settings.
    pub config: ClipConfig,
}

persists_inner!(Clip<G>);

impl<G: Gradient> Gradient for Clip<G> {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        let mut evaluation = self.inner.gradient(params, objective, batch, clock)?;
        let grads: Vec<_> = params.grads().collect();
        let norm = grad_norm(&grads);
        let scale = (self.config.max_norm / (&norm + 1e-6)).clamp_max(1.0); // a tensor: no round trip to the host
        scale_(&grads, &scale);
        evaluation.terms.retain(|(name, _)| *name != "grad_norm");
        evaluation.terms.push(("grad_norm", norm));
        Ok(evaluation)
    }
}
