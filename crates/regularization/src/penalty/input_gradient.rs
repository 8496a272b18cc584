//! A loss that small changes of the input leave alone: double backpropagation.

use super::gradient_by_input;
use heldout_core::{Denoising, Penalty, Persist, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Squared norm of the gradient of each row's weighted loss by its `x_t`: `[B, C, H, W] -> [B]`, summed over pixels, times `C H W`,
/// since the loss is a mean over them: a weight means as much for images of any size.
///
/// Drucker and LeCun 1992, section 2: double backpropagation, without their factor 1/2.
///
/// Law: 0 where the loss does not depend on `x_t`; no row sees another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InputGradientConfig {}

impl InputGradientConfig {
    /// There is nothing to refuse.
    pub fn check(&self) -> Result<()> {
        Ok(())
    }
}

impl Persist for InputGradientConfig {}

impl Penalty<Denoising<'_>> for InputGradientConfig {
    fn name(&self) -> &'static str {
        "input_gradient"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let gradient = gradient_by_input("input_gradient", view.loss, view)?;
        let gradient = gradient.flatten(1, -1);
        Ok(gradient.square().sum_dim_intlist(1i64, false, Kind::Float) * gradient.size()[1])
    }

    fn differentiates_input(&self) -> bool {
        true
    }
}
