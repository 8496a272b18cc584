//! Running averages of the weights.

use super::EmaDecay;
use heldout_core::{
    Average, Batch, Clock, Curve, Error, Evaluation, Objective, Params, Persist, Result, State, Update,
};
use heldout_torch_ext::lerp_;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of an exponential moving average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AverageConfig {
    /// How fast it forgets.
    pub decay: EmaDecay,
    /// As in records and checkpoints; `ema` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl AverageConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        self.decay.check().map_err(|e| e.within("decay"))?;
        match self.name.as_deref() {
            Some(name) if name.is_empty() || name.contains('/') => {
                Err(Error::config("name", format!("`{name}` is no name: letters, digits and spaces")))
            }
            _ => Ok(()),
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "ema".to_owned())
    }
}

/// Keeps `average = decay * average + (1 - decay) * weights` beside the weights, for evaluation; Polyak and Juditsky
/// 1992. Steps once per optimiser step.
///
/// With a decay curve of `n / (n + 1)` it is the plain mean of the weights. Law: at decay 0 it is the weights.
#[derive(Debug)]
pub struct Averaged<U, C> {
    name: String,
    inner: U,
    decay: C,
    average: Vec<Tensor>,
}

impl<U: Update, C: Curve> Averaged<U, C> {
    /// Starts from the weights as they are; `name` is that of [`Average::name`].
    pub fn new(name: impl Into<String>, inner: U, decay: C) -> Self {
        Self { name: name.into(), average: inner.params().snapshot(), inner, decay }
    }
}

impl<U: Update, C> Persist for Averaged<U, C> {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("inner", self.inner.state());
        let names = self.inner.params().named();
        let part = |n: &str| format!("average {}/{n}", self.name);
        state.tensors.extend(names.zip(&self.average).map(|((n, _), t)| (part(n), t.copy())));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.inner.load_state(state.unnest("inner"))?;
        let mut average = state.unnest(&format!("average {}", self.name));
        let names = self.inner.params().named();
        names.zip(&mut self.average).try_for_each(|((name, _), t)| average.restore(name, t))
    }
}

impl<U: Update, C: Curve> Update for Averaged<U, C> {
    fn update(&mut self, objective: &mut dyn Objective, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let evaluation = self.inner.update(objective, batch, clock)?;
        let rate = 1.0 - self.decay.at(clock);
        if rate > 0.0 {
            lerp_(&self.average, &self.inner.params().handles(), rate);
        }
        Ok(evaluation)
    }

    fn params(&self) -> &Params {
        self.inner.params()
    }

    fn averages(&self) -> Vec<Average<'_>> {
        let mut all = self.inner.averages();
        all.push(Average { name: &self.name, weights: &self.average });
        all
    }
}
