//! Slow weights that follow the fast ones.

use heldout_core::{
    Average, Batch, Clock, Error, Evaluation, Objective, Params, Persist, Result, State, Update,
};
use heldout_torch_ext::lerp_;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of [`Lookahead`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LookaheadConfig {
    /// Fast steps to one slow one; 5 or 10 in the paper.
    pub every: u64,
    /// How far the slow weights go towards the fast ones; 0.5 in the paper.
    pub share: f64,
}

impl LookaheadConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.every == 0 {
            return Err(Error::config("every", "0: at least 1 is needed"));
        }
        if self.share > 0.0 && self.share <= 1.0 {
            return Ok(());
        }
        Err(Error::config("share", format!("{} is not in (0, 1]", self.share)))
    }
}

/// Every `every` steps the weights go back to `slow + share (weights - slow)`, which are the next slow ones; Zhang et al.
/// 2019, Algorithm 1.
///
/// Law: with a share of 1 the weights stay where its inner update left them.
#[derive(Debug)]
pub struct Lookahead<U> {
    inner: U,
    config: LookaheadConfig,
    slow: Vec<Tensor>,
}

impl<U: Update> Lookahead<U> {
    /// Starts from the weights as they are.
    pub fn new(inner: U, config: LookaheadConfig) -> Self {
        Self { slow: inner.params().snapshot(), inner, config }
    }
}

impl<U: Update> Persist for Lookahead<U> {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("inner", self.inner.state());
        let names = self.inner.params().named();
        state.tensors.extend(names.zip(&self.slow).map(|((n, _), t)| (format!("slow/{n}"), t.copy())));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.inner.load_state(state.unnest("inner"))?;
        let mut slow = state.unnest("slow");
        let names = self.inner.params().named();
        names.zip(&mut self.slow).try_for_each(|((name, _), t)| slow.restore(name, t))
    }
}

impl<U: Update> Update for Lookahead<U> {
    fn update(&mut self, objective: &mut dyn Objective, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let evaluation = self.inner.update(objective, batch, clock)?;
        if (clock.step + 1).is_multiple_of(self.config.every) {
            let params = self.inner.params();
            lerp_(&self.slow, &params.handles(), self.config.share);
            params.restore(&self.slow);
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
