//! Gradient accumulation.

use heldout_core::{
    Batch, Clock, Error, Evaluation, Gradient, Objective, Params, Result, Rows, persists_inner,
};
use heldout_torch_ext::{add_, forget_grads, scale_};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of [`Accumulate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AccumulateConfig {
    /// Into how many equal parts a batch falls.
    pub micro_batches: u64,
}

impl AccumulateConfig {
    /// Which field cannot be honoured with batches of `batch_size`.
    pub fn check(&self, batch_size: usize) -> Result<()> {
        let parts = self.micro_batches as usize;
        if parts >= 1 && batch_size.is_multiple_of(parts) {
            return Ok(());
        }
        let reason = format!("{parts} does not divide a batch of {batch_size}: choose one of its divisors");
        Err(Error::config("micro_batches", reason))
    }
}

/// Mean of the gradients of equal parts of the batch: that of the whole batch in the memory of a part.
///
/// Law: with one part it is its inner gradient; without draws, parts and whole agree but for rounding.
#[derive(Debug)]
pub struct Accumulate<G> {
    /// What computes the gradient of a part.
    pub inner: G,
    /// Its settings.
    pub config: AccumulateConfig,
}

persists_inner!(Accumulate<G>);

impl<G: Gradient> Gradient for Accumulate<G> {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        let parts = self.config.micro_batches as i64;
        if parts == 1 {
            return self.inner.gradient(params, objective, batch, clock);
        }
        self.config.check(batch.len() as usize)?;
        let rows = batch.len() / parts;
        let (mut sum, mut seen): (Vec<Tensor>, Vec<Evaluation>) = (Vec::new(), Vec::new());
        for part in 0..parts {
            forget_grads(&params.handles()); // the part before keeps its own
            let evaluation =
                self.inner.gradient(params, objective, &batch.narrow(part * rows, rows), clock)?;
            let grads: Vec<Tensor> = params.grads().collect();
            if part > 0 {
                add_(&grads, &sum, 1.0);
            }
            sum = grads;
            seen.push(detached(evaluation));
        }
        scale_(&sum, &Tensor::from(1.0 / parts as f64));
        Ok(mean(seen))
    }
}

/// Without its graph, which would keep the part's activations alive.
pub(super) fn detached(evaluation: Evaluation) -> Evaluation {
    let Evaluation { loss, rows, terms } = evaluation;
    let rows = rows.map(|rows| Rows { loss: rows.loss.detach(), log_snr: rows.log_snr });
    Evaluation { loss: loss.detach(), rows, terms }
}

/// Mean losses and terms, all rows one after another.
pub(super) fn mean(parts: Vec<Evaluation>) -> Evaluation {
    let average = |tensors: Vec<Tensor>| {
        let n = tensors.len() as f64;
        tensors.into_iter().reduce(|a, b| a + b).map(|sum| sum / n)
    };
    let loss = average(parts.iter().map(|p| p.loss.shallow_clone()).collect());
    let names = parts.first().map(|p| p.terms.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    let of = |name: &str| {
        let found = parts.iter().filter_map(|p| p.terms.iter().find(|(n, _)| *n == name));
        average(found.map(|(_, t)| t.shallow_clone()).collect())
    };
    let terms = names.unwrap_or_default().into_iter().filter_map(|name| Some((name, of(name)?))).collect();
    let rows: Option<Vec<&Rows>> = parts.iter().map(|p| p.rows.as_ref()).collect();
    let joined = |get: &dyn Fn(&Rows) -> Tensor, rows: &[&Rows]| {
        Tensor::cat(&rows.iter().map(|r| get(r)).collect::<Vec<_>>(), 0)
    };
    let rows = rows.map(|rows| Rows {
        loss: joined(&|r| r.loss.shallow_clone(), &rows),
        log_snr: joined(&|r| r.log_snr.shallow_clone(), &rows),
    });
    Evaluation { loss: loss.unwrap_or_default(), rows, terms }
}
