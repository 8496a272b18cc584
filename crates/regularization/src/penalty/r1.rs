//! The R1 regulariser of critics.

use super::gradient_penalty::{lazily, positive, slopes};
use heldout_core::Result;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// `gamma / 2 * mean(|d D / d x|^2)` at real images, as the critic sees them; Mescheder et al. 2018, Eq. 9.
///
/// Law: of a linear critic it is `gamma / 2 |w|^2`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct R1Config {
    /// Its weight; 0.01 for images of 32x32 in Wang et al. 2023.
    pub gamma: f64,
    /// Only at every `every`th critic step, and then that many times over (Karras et al. 2020, section 4.1).
    pub every: u64,
}

impl Default for R1Config {
    fn default() -> Self {
        Self { gamma: 0.01, every: 16 }
    }
}

impl R1Config {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        lazily(self.every)?;
        positive("gamma", self.gamma)
    }
}

/// `mean(|d D / d x|^2)` at `real` `[B, ..]`: one number with the critic's graph.
pub fn r1(critic: impl Fn(&Tensor) -> Tensor, real: &Tensor) -> Result<Tensor> {
    let squares = slopes(critic, real)?.square();
    Ok(squares.sum_dim_intlist(1i64, false, None::<Kind>).mean(None::<Kind>))
}
