//! Products of the Hessian of a loss with vectors.

use crate::gradient::{evaluate, gradient};
use heldout_core::{Batch, Clock, Error, Objective, Params, Result};
use tch::{Kind, Tensor};

/// The Hessian of an objective by the weights as they are, for one batch and one set of draws; it is never formed.
///
/// `H v` is the gradient of `<gradient, v>` (Pearlmutter 1994): one forward pass in all, and a backward pass through the
/// backward pass for each product. The weights must stay as they are as long as it lives. Vectors are `[P]`, the weights
/// one after another in the order of [`Params`].
#[derive(Debug)]
pub struct Hessian {
    weights: Vec<Tensor>,
    /// With its graph.
    gradient: Vec<Tensor>,
    /// The value of the objective.
    pub loss: f64,
}

impl Hessian {
    /// Evaluates the objective on `batch` after `seed`.
    ///
    /// Errors: no weights, a loss that is no number, what the objective says.
    pub fn new(
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
        seed: u64,
    ) -> Result<Self> {
        let weights = params.handles();
        if weights.is_empty() {
            return Err(Error::config("params", "no weight that is trained"));
        }
        let loss = evaluate(objective, batch, clock, seed)?.loss;
        let gradient = gradient(&loss, &weights, true, true)?;
        Ok(Self { weights, gradient, loss: loss.double_value(&[]) })
    }

    /// How many weights, `P`.
    pub fn size(&self) -> i64 {
        self.weights.iter().map(|w| w.numel() as i64).sum()
    }

    /// The gradient, `[P]`.
    pub fn gradient(&self) -> Tensor {
        flat(&self.gradient).detach()
    }

    /// `H v`, `[P]`, for `v` `[P]`.
    pub fn times(&self, v: &Tensor) -> Result<Tensor> {
        let mut start = 0;
        let mut along = None;
        for g in &self.gradient {
            let len = g.numel() as i64;
            let part = (g * v.narrow(0, start, len).view_as(g)).sum(g.kind());
            along = Some(along.map_or_else(|| part.shallow_clone(), |sum: Tensor| sum + &part));
            start += len;
        }
        let along = along.unwrap_or_default();
        Ok(flat(&gradient(&along, &self.weights, true, false)?))
    }

    /// Unit Gaussian numbers, `[P]`, of the weights' kind and place, from libtorch's generator.
    pub(crate) fn randn(&self) -> Tensor {
        self.gradient().randn_like()
    }

    /// 1 and -1 with equal probability, `[P]`.
    pub(crate) fn signs(&self) -> Tensor {
        let like = self.gradient();
        like.rand_like().ge(0.5).to_kind(like.kind()) * 2.0 - 1.0
    }
}

fn flat(tensors: &[Tensor]) -> Tensor {
    Tensor::cat(&tensors.iter().map(|t| t.reshape([-1])).collect::<Vec<_>>(), 0)
}

/// `<a, b>`, summed in f64.
pub(crate) fn dot(a: &Tensor, b: &Tensor) -> f64 {
    (a * b).sum(Kind::Double).double_value(&[])
}
