//! Examples whose class is not told.

use super::pick::{check_probability, only, picked};
use heldout_core::{Augment, Backbone, Batch, Clock, Cond, Curve, CurveConfig, Error, Input, Probe, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Puts `null` in the place of class ids `[B]`, and zeros in that of vectors `[B, D]`; Ho and Salimans 2022, Algorithm 1.
///
/// For networks without a dropout of labels of their own. Without labels it does nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LabelDropout {
    /// How many rows lose their label: 0.1 to 0.2 in the paper.
    pub probability: CurveConfig,
    /// Id of the class that stands for none, usually the number of classes.
    pub null: i64,
}

impl LabelDropout {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        check_probability(&self.probability)?;
        if self.null >= 0 {
            return Ok(());
        }
        Err(Error::config("null", format!("{} is no class id: it starts at 0", self.null)))
    }
}

impl Augment for LabelDropout {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 {
            return batch;
        }
        batch.cond.label = batch.cond.label.map(|label| {
            let none = if label.kind() == Kind::Int64 { self.null } else { 0 };
            only(&picked(&label, probability), &label.full_like(none), &label)
        });
        batch
    }
}

/// A network with a class that stands for none, which it is told where a class is not given: in sampling and validation.
#[derive(Debug)]
pub struct NullClass<B> {
    /// The network.
    pub inner: B,
    /// Id of the class that stands for none.
    pub null: i64,
}

impl<B> NullClass<B> {
    fn told(&self, input: Input<'_>) -> Option<Cond> {
        let absent = input.cond.label.is_none();
        absent.then(|| {
            let label = Tensor::full([input.x.size()[0]], self.null, (Kind::Int64, input.x.device()));
            Cond { label: Some(label), ..input.cond.shallow_clone() }
        })
    }
}

impl<B: Backbone> Backbone for NullClass<B> {
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let told = self.told(input);
        self.inner.forward(Input { cond: told.as_ref().unwrap_or(input.cond), ..input }, probe)
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        let told = self.told(input);
        self.inner.check(Input { cond: told.as_ref().unwrap_or(input.cond), ..input })
    }
}
