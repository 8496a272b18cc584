//! Weights of constant length.

use heldout_core::{
    Average, Batch, Clock, Curve, CurveConfig, Evaluation, Objective, Params, Persist, Result, State, Update,
};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Settings of [`WeightNormalization`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct WeightNormalizationConfig {
    /// How much of a length's change is undone: 1 all of it, as in the paper.
    pub strength: CurveConfig,
}

impl WeightNormalizationConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        self.strength.check("strength", 0.0, 1.0)
    }
}

/// Gives every row of every matrix and filter its first length back after each step, so that training turns weights and does
/// not lengthen them; Karras et al. 2024 (EDM2), section 2.3, "forced weight normalization".
///
/// The paper's layers have unit rows; here a row keeps the length that it was initialised with, and rows that were 0 are left
/// alone, as are biases and other vectors. Law: at strength 0 the weights stay where its inner update left them.
#[derive(Debug)]
pub struct WeightNormalization<U> {
    inner: U,
    config: WeightNormalizationConfig,
    /// Lengths of the rows of each parameter, `[rows, 1, ..]`; `None` for vectors.
    lengths: Vec<Option<Tensor>>,
}

impl<U: Update> WeightNormalization<U> {
    /// Lengths are those of the weights as they are.
    pub fn new(inner: U, config: WeightNormalizationConfig) -> Self {
        let of = |p: &Tensor| (p.dim() >= 2).then(|| row_lengths(p));
        let lengths = tch::no_grad(|| inner.params().tensors().map(of).collect());
        Self { inner, config, lengths }
    }
}

fn row_lengths(p: &Tensor) -> Tensor {
    let dims: Vec<i64> = (1..p.dim() as i64).collect();
    p.square().sum_dim_intlist(dims, true, Kind::Float).sqrt()
}

impl<U: Update> Persist for WeightNormalization<U> {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("inner", self.inner.state());
        let named = self.inner.params().named().zip(&self.lengths);
        let lengths = named.filter_map(|((n, _), t)| Some((format!("length/{n}"), t.as_ref()?.copy())));
        state.tensors.extend(lengths);
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.inner.load_state(state.unnest("inner"))?;
        let mut saved = state.unnest("length");
        let mut named = self.inner.params().named().zip(&mut self.lengths);
        named.try_for_each(|((name, _), t)| t.as_mut().map_or(Ok(()), |t| saved.restore(name, t)))
    }
}

impl<U: Update> Update for WeightNormalization<U> {
    fn update(&mut self, objective: &mut dyn Objective, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let evaluation = self.inner.update(objective, batch, clock)?;
        let strength = self.config.strength.at(clock);
        if strength > 0.0 {
            tch::no_grad(|| {
                for (p, first) in self.inner.params().tensors().zip(&self.lengths) {
                    let Some(first) = first else { continue };
                    let ratio = (first / row_lengths(p).clamp_min(1e-12)).pow_tensor_scalar(strength);
                    let factor = ratio.where_self(&first.gt(0.0), &first.ones_like());
                    let _ = p.shallow_clone().g_mul_(&factor.to_kind(p.kind()));
                }
            });
        }
        Ok(evaluation)
    }

    fn params(&self) -> &Params {
        self.inner.params()
    }

    fn averages(&self) -> Vec<Average<'_>> {
        self.inner.averages()
    }
}
