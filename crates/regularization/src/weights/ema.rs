//! Exponential moving average of the weights.

use heldout_core::{
    Average, Batch, Clock, Curve, Error, Evaluation, Objective, Params, Persist, Result, State, Update,
};
use heldout_torch_ext::lerp_;
use tch::Tensor;

/// `min(decay, (1 + step) / (10 + step))`: young averages forget their first weights fast.
///
/// The warm-up of Song et al. 2021's and TensorFlow's `ExponentialMovingAverage`.
#[derive(Debug, Clone, Copy)]
pub struct EmaDecay {
    /// The decay that is reached in the end, in `[0, 1)`.
    pub decay: f64,
}

impl EmaDecay {
    /// With `decay` checked.
    pub fn new(decay: f64) -> Result<Self> {
        if (0.0..1.0).contains(&decay) {
            return Ok(Self { decay });
        }
        Err(Error::config("decay", format!("{decay} is not in [0, 1)")))
    }
}

impl Curve for EmaDecay {
    fn at(&self, clock: Clock) -> f64 {
        let step = clock.step as f64;
        self.decay.min((1.0 + step) / (10.0 + step))
    }
}

/// Keeps `average = decay * average + (1 - decay) * weights` beside the weights, for evaluation; Polyak and Juditsky
/// 1992. Steps once per optimiser step.
///
/// With a decay curve of `n / (n + 1)` it is the plain mean of the weights.
#[derive(Debug)]
pub struct Averaged<U, C> {
    name: String,
    inner: U,
    decay: C,
    average: Vec<Tensor>,
}

impl<U: Update, C: Curve> Averaged<U, C> {
    /// Starts from the weights as they are.
    pub fn new(name: impl Into<String>, inner: U, decay: C) -> Self {
        Self { name: name.into(), average: inner.params().snapshot(), inner, decay }
    }
}

impl<U: Update, C> Persist for Averaged<U, C> {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("inner", self.inner.state());
        let names = self.inner.params().named();
        state.tensors.extend(
            names.zip(&self.average).map(|((n, _), t)| (format!("average {}/{n}", self.name), t.copy())),
        );
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
        lerp_(&self.average, &self.inner.params().handles(), rate);
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
