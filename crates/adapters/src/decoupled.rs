//! Conditions that each move a part of the prediction.

use crate::factors::Split;
use crate::several::{Weight, check_each, own_hints};
use heldout_core::{Adapter, Backbone, Cond, Error, Input, Probe, Result};
use tch::Tensor;

/// A backbone with an adapter for each part of its prediction: `F_0 + sum_k w_k P_k (F_k - F_0)`, where `F_0` is the backbone,
/// `F_k` the backbone with adapter `k`, `P_k` its part of a [`Split`] and `w_k` its weight. An adapter moves its own part and no
/// other, so that adapters trained apart can be used together.
///
/// The adapters' channels of the hint stand side by side, in the order of the parts. A pass costs one of the backbone for every
/// part that has an adapter, and one more. Law: the backbone at initialisation, bit for bit.
#[derive(Debug)]
pub struct Decoupled<B> {
    backbone: B,
    split: Split,
    adapters: Vec<(usize, Box<dyn Adapter>, Weight)>,
}

impl<B: Backbone> Decoupled<B> {
    /// `adapters` by the names of their parts, at most one for each; a part without one stays as the backbone makes it.
    ///
    /// # Errors
    /// A name that is not one of the split's, or comes twice.
    pub fn new(backbone: B, split: Split, adapters: Vec<(String, Box<dyn Adapter>, Weight)>) -> Result<Self> {
        let mut placed: Vec<(usize, Box<dyn Adapter>, Weight)> = Vec::new();
        for (name, adapter, weight) in adapters {
            let Some(i) = split.names().position(|known| known == name) else {
                let known = split.names().collect::<Vec<_>>().join(", ");
                return Err(Error::config(name, format!("is not a part: they are {known}")));
            };
            if placed.iter().any(|(there, ..)| *there == i) {
                return Err(Error::config(name, "has two adapters: at most one for each part"));
            }
            placed.push((i, adapter, weight));
        }
        placed.sort_by_key(|(i, ..)| *i);
        Ok(Self { backbone, split, adapters: placed })
    }

    /// The split.
    pub fn split(&self) -> &Split {
        &self.split
    }

    fn adapters(&self) -> impl Iterator<Item = &dyn Adapter> + Clone {
        self.adapters.iter().map(|(_, adapter, _)| adapter.as_ref())
    }
}

impl<B: Backbone> Backbone for Decoupled<B> {
    /// The probe sees the pass without adapters. The backbone drops nothing out, in training neither, since its passes are
    /// compared.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let still = Input { train: false, ..input };
        let base = self.backbone.forward(still, probe);
        if input.cond.hint.is_none() {
            return base;
        }
        let mut out = base.shallow_clone();
        for ((i, adapter, weight), cond) in self.adapters.iter().zip(own_hints(self.adapters(), input.cond)) {
            if weight.is_zero() {
                continue;
            }
            let mut residuals = adapter.residuals(Input { cond: &cond, ..input });
            let moved = self.backbone.forward(still, &mut residuals) - &base;
            out = &out + weight.times(self.split.part(*i, &moved));
        }
        out
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        check_each(self.adapters(), input)?;
        let cond = Cond { hint: None, ..input.cond.shallow_clone() };
        self.backbone.check(Input { cond: &cond, ..input })
    }
}
