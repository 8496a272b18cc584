//! Conflicting gradients of noise levels.

use crate::band::{Band, bands, check_edges, row_masks};
use heldout_core::{Batch, Clock, Error, Evaluation, Gradient, Objective, Params, Persist, Result};
use heldout_torch_ext::set_grads;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Settings of [`PcGrad`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PcGradConfig {
    /// Where the bands of noise levels meet, `ln(alpha^2 / sigma^2)`, rising; none is one band.
    pub edges: Vec<f64>,
}

impl PcGradConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        check_edges("edges", &self.edges)
    }
}

/// The sum of the gradients of bands of noise levels, each without what conflicts with another; Yu et al. 2020, Algorithm 1.
///
/// A band's loss is its share of the batch's, so that bands that do not conflict give the plain gradient. One forward pass,
/// one backward pass a band. Adds `conflicts`, the share of pairs of bands with gradients more than 90 degrees apart.
#[derive(Debug)]
pub struct PcGrad {
    /// Its settings.
    pub config: PcGradConfig,
}

impl Persist for PcGrad {}

impl Gradient for PcGrad {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        let mut evaluation = objective.evaluate(batch, clock)?;
        let handles = params.handles();
        let losses = self.losses(&evaluation)?;
        let mut gradients = Vec::new(); // one vector a band
        for (i, loss) in losses.iter().enumerate() {
            let last = i + 1 == losses.len();
            let parts = Tensor::f_run_backward(&[loss], &handles, !last, false)?;
            gradients.push(flat(&parts, &handles));
        }
        let (sum, conflicts) = surgery(&gradients);
        set_grads(&handles, &apart(&sum, &handles));
        evaluation.terms.push(("conflicts", conflicts));
        Ok(evaluation)
    }
}

impl PcGrad {
    /// Each band's share of the loss; bands that the batch does not meet are left out.
    fn losses(&self, evaluation: &Evaluation) -> Result<Vec<Tensor>> {
        let rows = evaluation.rows.as_ref().ok_or_else(|| {
            Error::config("gradient", "pc_grad needs an objective that gives the loss of every row")
        })?;
        let bands: Vec<Band> = bands(&self.config.edges);
        let masks = row_masks(&rows.log_snr, &bands);
        let met = |mask: &&Tensor| mask.any().int64_value(&[]) == 1;
        let n = rows.loss.size()[0] as f64;
        Ok(masks.iter().filter(met).map(|mask| (&rows.loss * mask).sum(Kind::Float) / n).collect())
    }
}

/// One vector of all gradients, zeros where there is none.
fn flat(parts: &[Tensor], like: &[Tensor]) -> Tensor {
    let part = |(g, p): (&Tensor, &Tensor)| match g.defined() {
        true => g.flatten(0, -1),
        false => p.detach().zeros_like().flatten(0, -1),
    };
    Tensor::cat(&parts.iter().zip(like).map(part).collect::<Vec<_>>(), 0)
}

/// The vector as gradients again: views, not copies.
fn apart(vector: &Tensor, like: &[Tensor]) -> Vec<Tensor> {
    let mut start = 0;
    let part = |p: &Tensor| {
        let n = p.numel() as i64;
        start += n;
        vector.narrow(0, start - n, n).view_as(p)
    };
    like.iter().map(part).collect()
}

/// Projects each on the normal plane of each other that it conflicts with, in random order; the sum, and the share of pairs
/// that conflict.
///
/// Works on the products of the gradients alone: what is left of each is a sum of them.
fn surgery(gradients: &[Tensor]) -> (Tensor, Tensor) {
    let k = gradients.len();
    let stacked = Tensor::stack(gradients, 0); // [k, n]
    let products = stacked.matmul(&stacked.tr()).to_kind(Kind::Double).to_device(Device::Cpu);
    let product = |i: usize, j: usize| products.double_value(&[i as i64, j as i64]);
    let (mut weights, mut conflicts) = (vec![0.0f64; k], 0usize);
    for i in 0..k {
        let mut own = vec![0.0; k];
        own[i] = 1.0;
        for j in order(k).into_iter().filter(|j| *j != i) {
            conflicts += usize::from(product(i, j) < 0.0);
            let along: f64 = (0..k).map(|l| own[l] * product(l, j)).sum();
            if along < 0.0 {
                own[j] -= along / product(j, j).max(f64::MIN_POSITIVE);
            }
        }
        weights.iter_mut().zip(own).for_each(|(sum, w)| *sum += w);
    }
    let weights = Tensor::from_slice(&weights).to_kind(stacked.kind()).to_device(stacked.device());
    let share = conflicts as f64 / (k * k.saturating_sub(1)).max(1) as f64;
    (weights.unsqueeze(0).matmul(&stacked).squeeze_dim(0), Tensor::from(share))
}

/// A random order of `k`; one needs no draw.
fn order(k: usize) -> Vec<usize> {
    if k < 3 {
        return (0..k).collect();
    }
    let order = Tensor::randperm(k as i64, (Kind::Int64, Device::Cpu));
    (0..k).map(|i| order.int64_value(&[i as i64]) as usize).collect()
}
