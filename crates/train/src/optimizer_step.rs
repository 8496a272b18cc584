//! Gradient, check, step.

use heldout_core::{
    Batch, Clock, Curve, Error, Evaluation, Gradient, Objective, Optimizer, Params, Persist, Result, State,
    Update,
};
use heldout_torch_ext::grad_norm;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// What to do about a loss or gradient that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum NonFinite {
    /// End the run with an error that names the term.
    Stop,
    /// Leave the weights and the optimiser as they are, and count.
    Skip,
}

/// The plain step of training: a gradient, a look at it, and the optimiser.
///
/// On its first step it checks that every parameter received a gradient: an operation without a backward pass cuts the
/// graph, and the layers behind it would stay as they were initialised.
#[derive(Debug)]
pub struct OptimizerStep<G, C> {
    params: Params,
    optimizer: Box<dyn Optimizer>,
    gradient: G,
    learning_rate: C,
    non_finite: NonFinite,
    skipped: u64,
    coverage_checked: bool,
}

impl<G: Gradient, C: Curve> OptimizerStep<G, C> {
    /// Puts the parts together.
    pub fn new(
        params: Params,
        optimizer: Box<dyn Optimizer>,
        gradient: G,
        learning_rate: C,
        non_finite: NonFinite,
    ) -> Self {
        Self { params, optimizer, gradient, learning_rate, non_finite, skipped: 0, coverage_checked: false }
    }

    fn check_coverage(&mut self) -> Result<()> {
        if !std::mem::replace(&mut self.coverage_checked, true) {
            let missing: Vec<&str> =
                self.params.named().filter(|(_, p)| !p.grad().defined()).map(|(n, _)| n).collect();
            if let Some(first) = missing.first() {
                let reason =
                    format!("no gradient reached it ({} in all): unused, or cut off the loss", missing.len());
                return Err(Error::config(format!("parameter {first}"), reason));
            }
        }
        Ok(())
    }

    /// The name of what is not finite, if anything is.
    fn culprit(&self, evaluation: &Evaluation, norm: &Tensor) -> Option<String> {
        let finite = |t: &Tensor| t.isfinite().all().int64_value(&[]) == 1;
        // One look at a sum settles the usual case with one round trip to the host.
        if finite(&(norm.to_kind(Kind::Float) + evaluation.loss.detach().to_kind(Kind::Float))) {
            return None;
        }
        let term = evaluation.terms.iter().find(|(name, t)| *name != "grad_norm" && !finite(t));
        let gradient = || self.params.named().find(|(_, p)| p.grad().defined() && !finite(&p.grad()));
        let named = term.map(|(n, _)| format!("loss term `{n}`"));
        named
            .or_else(|| gradient().map(|(n, _)| format!("gradient of `{n}`")))
            .or(Some("gradient norm".to_owned()))
    }
}

impl<G: Persist, C> Persist for OptimizerStep<G, C> {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("optimizer", self.optimizer.state());
        state.nest("gradient", self.gradient.state());
        state.set_count("skipped", self.skipped);
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.skipped = state.count("skipped")?;
        self.optimizer.load_state(state.unnest("optimizer"))?;
        self.gradient.load_state(state.unnest("gradient"))
    }
}

impl<G: Gradient, C: Curve> Update for OptimizerStep<G, C> {
    fn update(&mut self, objective: &mut dyn Objective, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let mut evaluation = self.gradient.gradient(&self.params, objective, batch, clock)?;
        self.check_coverage()?;
        let seen =
            evaluation.terms.iter().find(|(name, _)| *name == "grad_norm").map(|(_, t)| t.shallow_clone());
        let norm = seen.unwrap_or_else(|| {
            let norm = grad_norm(&self.params.grads().collect::<Vec<_>>());
            evaluation.terms.push(("grad_norm", norm.shallow_clone()));
            norm
        });
        let rate = self.learning_rate.at(clock);
        match (self.culprit(&evaluation, &norm), self.non_finite) {
            (None, _) => self.optimizer.step(&self.params, rate),
            (Some(term), NonFinite::Stop) => return Err(Error::Diverged { term, step: clock.step }),
            (Some(_), NonFinite::Skip) => self.skipped += 1,
        }
        evaluation.terms.push(("learning_rate", Tensor::from(rate)));
        evaluation.terms.push(("skipped", Tensor::from(self.skipped as i64)));
        Ok(evaluation)
    }

    fn params(&self) -> &Params {
        &self.params
    }
}
