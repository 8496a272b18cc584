//! Flat minima: the squared gradient of the loss by the weights.

use heldout_core::{Denoising, Error, Params, Penalty, Persist, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Squared norm of the gradient of the batch's mean loss by the weights, one number.
///
/// Barrett and Dherin 2021, Eq. 4 (there divided by the number of weights): what gradient descent of a finite step
/// adds by itself, made explicit; Zhao et al. 2022 take the norm in place of its square.
///
/// Law: its gradient is `2 H g`, the product of the Hessian and the gradient, and it leaves no gradient itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LossGradientConfig {}

impl LossGradientConfig {
    /// There is nothing to refuse.
    pub fn check(&self) -> Result<()> {
        Ok(())
    }
}

/// The penalty of [`LossGradientConfig`], which knows the weights.
#[derive(Debug)]
pub struct LossGradient {
    /// The model's weights.
    pub params: Params,
}

impl Persist for LossGradient {}

impl Penalty<Denoising<'_>> for LossGradient {
    fn name(&self) -> &'static str {
        "loss_gradient"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let loss = view.loss.mean(view.loss.kind());
        let grads = Tensor::f_run_backward(&[loss], &self.params.handles(), true, true)?;
        // Weights that this loss does not reach, as a projector's, have no gradient.
        let squares = grads.iter().filter(|g| g.defined()).map(|g| g.square().sum(g.kind()));
        let sum = squares.reduce(|a, b| a + b);
        sum.ok_or_else(|| Error::config("loss_gradient", "the loss reaches none of the weights given to it"))
            .map(|sum| if sum.kind() == Kind::Double { sum } else { sum.to_kind(Kind::Float) })
    }
}
