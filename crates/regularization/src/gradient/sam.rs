//! Sharpness-aware minimisation.

use heldout_core::{
    Batch, Clock, Curve, CurveConfig, Evaluation, Gradient, Objective, Params, Result, persists_inner,
};
use heldout_torch_ext::{add_, grad_norm, scale_};
use serde::{Deserialize, Serialize};
use tch::Tensor;

use crate::draws::Draws;

/// Settings of [`Sam`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SamConfig {
    /// Length of the step uphill; 0.05 in the paper, 0.5 to 2 where it is adaptive.
    pub rho: CurveConfig,
    /// Whether each weight's step is measured in units of the weight; Kwon et al. 2021 (ASAM), Eq. 5.
    #[serde(default)]
    pub adaptive: bool,
}

impl SamConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        self.rho.check("rho", 0.0, f64::INFINITY)
    }
}

/// The gradient at `w + rho g / |g|`, the worst weights nearby to first order; Foret et al. 2021, Eq. 2 and 3.
///
/// Both gradients see the same noise and noise levels. What the objective itself learns from an evaluation, as a critic
/// does, it learns twice. Adds `sharpness` to the terms: how much the loss rises uphill.
///
/// Law: at `rho` 0 it is its inner gradient; the weights come back bit for bit.
#[derive(Debug)]
pub struct Sam<G> {
    /// What computes both gradients.
    pub inner: G,
    /// Its settings.
    pub config: SamConfig,
}

persists_inner!(Sam<G>);

impl<G: Gradient> Gradient for Sam<G> {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        let rho = self.config.rho.at(clock);
        if rho == 0.0 {
            return self.inner.gradient(params, objective, batch, clock);
        }
        let draws = Draws::new();
        draws.seed(0);
        let mut evaluation = self.inner.gradient(params, objective, batch, clock)?;
        let start = params.snapshot();
        self.climb(params, rho);
        draws.seed(0);
        let uphill = self.inner.gradient(params, objective, batch, clock);
        params.restore(&start);
        let rise = uphill?.loss.detach() - evaluation.loss.detach();
        evaluation.terms.retain(|(name, _)| *name != "grad_norm"); // that of the first gradient, which is gone
        evaluation.terms.push(("sharpness", rise));
        Ok(evaluation)
    }
}

impl<G> Sam<G> {
    /// `w += rho T g / |T g|`, times `T` once more, where `T` is 1 or `|w|`. On the device, without a look at the norm.
    fn climb(&self, params: &Params, rho: f64) {
        let with_grad = || params.tensors().filter(|p| p.grad().defined());
        let weights: Vec<Tensor> = with_grad().map(Tensor::shallow_clone).collect();
        let step: Vec<Tensor> = tch::no_grad(|| {
            with_grad()
                .map(|p| if self.config.adaptive { p.abs() * p.grad() } else { p.grad().copy() })
                .collect()
        });
        scale_(&step, &(rho / grad_norm(&step).clamp_min(1e-12)));
        let step = match self.config.adaptive {
            true => tch::no_grad(|| weights.iter().zip(&step).map(|(p, s)| p.abs() * s).collect()),
            false => step,
        };
        add_(&weights, &step, 1.0);
    }
}
