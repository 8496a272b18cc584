//! The plain gradient.

use heldout_core::{Batch, Clock, Evaluation, Gradient, Objective, Params, Persist, Result};
use heldout_torch_ext::forget_grads;

/// One evaluation, one backward pass.
#[derive(Debug, Clone, Copy)]
pub struct Backprop;

impl Persist for Backprop {}

impl Gradient for Backprop {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        forget_grads(&params.handles());
        let evaluation = objective.evaluate(batch, clock)?;
        evaluation.loss.f_backward()?;
        Ok(evaluation)
    }
}
