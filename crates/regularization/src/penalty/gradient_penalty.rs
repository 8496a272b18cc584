//! The gradient penalty of Wasserstein critics.

use heldout_core::{Error, Result, like};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// `weight * mean((|d D / d x| - 1)^2)` at points between real and generated images; Gulrajani et al. 2017, Eq. 3.
///
/// Law: of a linear critic it is `(|w| - 1)^2` wherever it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct GradientPenaltyConfig {
    /// Their `lambda`.
    pub weight: f64,
    /// Only at every `every`th critic step, and then that many times over (Karras et al. 2020, section 4.1).
    pub every: u64,
}

impl Default for GradientPenaltyConfig {
    fn default() -> Self {
        Self { weight: 10.0, every: 1 }
    }
}

impl GradientPenaltyConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        lazily(self.every)?;
        positive("weight", self.weight)
    }
}

pub(super) fn lazily(every: u64) -> Result<()> {
    if every > 0 {
        return Ok(());
    }
    Err(Error::config("every", "0: a period of at least 1 is needed"))
}

pub(super) fn positive(field: &str, value: f64) -> Result<()> {
    if value > 0.0 && value.is_finite() {
        return Ok(());
    }
    Err(Error::config(field, format!("{value} is not a positive number: leave the term out for none")))
}

/// `mean((|d D / d x| - 1)^2)` at `x = real + mix (fake - real)`: images `[B, ..]`, `mix` `[B]` in `[0, 1]`, one
/// number with the critic's graph.
pub fn gradient_penalty(
    critic: impl Fn(&Tensor) -> Tensor,
    real: &Tensor,
    fake: &Tensor,
    mix: &Tensor,
) -> Result<Tensor> {
    let between = real + like(mix, real) * (fake - real);
    let slopes = slopes(critic, &between)?;
    let norms = slopes.norm_scalaropt_dim(2.0, [1i64], false);
    Ok((norms - 1.0).square().mean(None::<Kind>))
}

/// The gradient of every row's score by that row, `[B, d]`, with its graph.
pub(super) fn slopes(critic: impl Fn(&Tensor) -> Tensor, x: &Tensor) -> Result<Tensor> {
    let x = x.detach().set_requires_grad(true);
    // A score for every row, and no row sees another: one pass is enough.
    let grads = Tensor::f_run_backward(&[critic(&x)], &[&x], true, true)?;
    Ok(grads[0].flatten(1, -1))
}
