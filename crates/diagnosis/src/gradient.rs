//! Gradients of an objective as lists of tensors.

use heldout_core::{Batch, Clock, Error, Evaluation, Objective, Result};
use tch::Tensor;

/// The objective after `seed`; an error where the loss is no number.
pub(crate) fn evaluate(
    objective: &mut dyn Objective,
    batch: &Batch,
    clock: Clock,
    seed: u64,
) -> Result<Evaluation> {
    tch::manual_seed(seed as i64);
    let evaluation = objective.evaluate(batch, clock)?;
    let loss = evaluation.loss.double_value(&[]);
    if !loss.is_finite() {
        return Err(Error::config(
            "weights",
            format!("the loss is {loss}: there is nothing to differentiate"),
        ));
    }
    Ok(evaluation)
}

/// The gradient of a scalar, zeros where it does not depend on a tensor. `graph`: it will be differentiated again.
pub(crate) fn gradient(scalar: &Tensor, by: &[Tensor], keep: bool, graph: bool) -> Result<Vec<Tensor>> {
    if !scalar.requires_grad() {
        return Ok(by.iter().map(|p| p.detach().zeros_like()).collect());
    }
    let found = Tensor::f_run_backward(&[scalar], by, keep, graph)?;
    let zeros = |p: &Tensor| p.detach().zeros_like();
    Ok(found.into_iter().zip(by).map(|(g, p)| if g.defined() { g } else { zeros(p) }).collect())
}
