//! A flat denoiser: the squared Jacobian of its estimate.

use super::gradient_by_input;
use heldout_core::{Denoising, Error, Penalty, Persist, Result, mean_flat};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Squared Frobenius norm of `d x_start_hat / d x_t`, divided by the numbers of an image, `d = C H W`, by Hutchinson's
/// estimator: `|J^T v|^2 / d` for random `v` `[B, C, H, W]` of unit covariance, whose mean is `|J|_F^2 / d`. `[B]`.
///
/// Hoffman et al. 2019, section 2: random projections; Hutchinson 1990: the estimator. The exact denoiser of a finite
/// training set jumps from image to image; one of the distribution does not.
///
/// Law: of a linear map the mean over draws is `|J|_F^2 / d`; of a multiple `c` of the identity every draw of signs is
/// `c^2`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct JacobianConfig {
    /// How many vectors are drawn; each costs a backward pass and its graph.
    #[serde(default = "one")]
    pub probes: usize,
    /// What they are drawn from.
    #[serde(default)]
    pub vectors: ProbeVectors,
}

/// Random vectors of unit covariance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ProbeVectors {
    /// Independent signs: the smaller variance.
    #[default]
    Rademacher,
    /// Unit Gaussian.
    Gaussian,
}

fn one() -> usize {
    1
}

impl Default for JacobianConfig {
    fn default() -> Self {
        Self { probes: one(), vectors: ProbeVectors::default() }
    }
}

impl JacobianConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.probes > 0 {
            return Ok(());
        }
        Err(Error::config("probes", "0: at least 1 is needed, or a weight of 0"))
    }
}

impl Persist for JacobianConfig {}

impl Penalty<Denoising<'_>> for JacobianConfig {
    fn name(&self) -> &'static str {
        "jacobian"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let hat = view.x_start_hat;
        let mut sum = None;
        for _ in 0..self.probes {
            let v = match self.vectors {
                ProbeVectors::Rademacher => hat.detach().rand_like().ge(0.5).to_kind(hat.kind()) * 2.0 - 1.0,
                ProbeVectors::Gaussian => hat.detach().randn_like(),
            };
            // No row sees another, so that one backward pass gives every row its own product.
            let product = mean_flat(&gradient_by_input("jacobian", &(hat * v), view)?.square());
            sum = Some(sum.map_or_else(|| product.shallow_clone(), |s: Tensor| s + &product));
        }
        let sum = sum.ok_or_else(|| Error::config("probes", "0: at least 1 is needed"))?;
        Ok(sum / self.probes as f64)
    }

    fn differentiates_input(&self) -> bool {
        true
    }
}
