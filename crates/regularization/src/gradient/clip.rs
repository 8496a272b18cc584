//! Gradient clipping.

use heldout_core::{Batch, Clock, Error, Evaluation, Gradient, Objective, Params, Persist, Result, State};
use heldout_torch_ext::{grad_norm, scale_};

/// Scales the whole gradient down to norm `max_norm` where it is longer; Pascanu et al. 2013, Algorithm 1.
///
/// Adds the norm before clipping to the terms, as `grad_norm`.
#[derive(Debug)]
pub struct Clip<G> {
    /// What computes the gradient.
    pub inner: G,
    /// The longest gradient that is left as it is.
    pub max_norm: f64,
}

impl<G> Clip<G> {
    /// With `max_norm` checked.
    pub fn new(inner: G, max_norm: f64) -> Result<Self> {
        if max_norm > 0.0 && max_norm.is_finite() {
            return Ok(Self { inner, max_norm });
        }
        Err(Error::config("gradient_clip", format!("{max_norm} is not a positive number")))
    }
}

impl<G: Persist> Persist for Clip<G> {
    fn state(&self) -> State {
        self.inner.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.inner.load_state(state)
    }
}

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
        let scale = (self.max_norm / (&norm + 1e-6)).clamp_max(1.0); // a tensor: no round trip to the host
        scale_(&grads, &scale);
        evaluation.terms.push(("grad_norm", norm));
        Ok(evaluation)
    }
}
