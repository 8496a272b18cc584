//! The trainable tensors of a model, and the exchange of weights for evaluation.

use crate::{Persist, Result, State, state::copy};
use tch::{Tensor, nn};

/// The trainable tensors, by name, in the order of their names. Shares storage with the model.
#[derive(Debug)]
pub struct Params(Vec<(String, Tensor)>);

impl Params {
    /// All trainable variables of a store.
    pub fn of(vars: &nn::VarStore) -> Self {
        let mut named: Vec<_> = vars.variables().into_iter().filter(|(_, t)| t.requires_grad()).collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b)); // `variables` is a HashMap: no order of its own.
        Self(named)
    }

    /// The same tensors under new handles.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self(self.0.iter().map(|(name, t)| (name.clone(), t.shallow_clone())).collect())
    }

    /// Names and tensors.
    pub fn named(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.0.iter().map(|(name, t)| (name.as_str(), t))
    }

    /// The tensors alone.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.0.iter().map(|(_, t)| t)
    }

    /// The tensors under new handles, for what takes a list.
    pub fn handles(&self) -> Vec<Tensor> {
        self.tensors().map(Tensor::shallow_clone).collect()
    }

    /// The gradients that are there.
    pub fn grads(&self) -> impl Iterator<Item = Tensor> {
        self.tensors().map(Tensor::grad).filter(Tensor::defined)
    }

    /// How many numbers are trained.
    pub fn count(&self) -> usize {
        self.tensors().map(Tensor::numel).sum()
    }

    /// Copies of the weights.
    pub fn snapshot(&self) -> Vec<Tensor> {
        self.tensors().map(|p| p.detach().copy()).collect()
    }

    /// Overwrites the weights.
    pub fn restore(&self, saved: &[Tensor]) {
        tch::no_grad(|| self.tensors().zip(saved).for_each(|(p, s)| p.shallow_clone().copy_(s)));
    }

    /// Forgets all gradients.
    pub fn zero_grad(&self) {
        self.tensors().for_each(|p| p.shallow_clone().zero_grad());
    }
}

impl Persist for Params {
    fn state(&self) -> State {
        let tensors = self.named().map(|(name, t)| (name.to_owned(), copy(t))).collect();
        State { tensors, ..State::default() }
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.0.iter_mut().try_for_each(|(name, t)| state.restore(name, t))
    }
}

/// While it lives, the model holds the weights that should be evaluated; then the live ones come back.
#[derive(Debug)]
#[must_use = "the live weights come back when this is dropped"]
pub struct EvalWeights<'a> {
    params: &'a Params,
    live: Vec<Tensor>,
}

impl<'a> EvalWeights<'a> {
    /// Puts `weights` (in the order of `params`) in the place of the live ones.
    pub fn swap_in(params: &'a Params, weights: &[Tensor]) -> Self {
        let live = params.snapshot();
        params.restore(weights);
        Self { params, live }
    }
}

impl Drop for EvalWeights<'_> {
    fn drop(&mut self) {
        self.params.restore(&self.live);
    }
}
