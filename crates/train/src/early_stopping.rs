//! Stopping at the best held-out loss.

use crate::Validator;
use heldout_core::{Clock, Evaluation, Flow, Observer, Persist, Result, State, Update};

/// Stops when `patience` validations in a row brought no lower held-out loss; Prechelt 1998, the UP criterion's kin.
#[derive(Debug)]
pub struct EarlyStopping {
    validator: Validator,
    patience: u64,
    best: Option<f64>,
    best_step: u64,
    worse: u64,
}

impl EarlyStopping {
    /// Around the validation that it listens to.
    pub fn new(validator: Validator, patience: u64) -> Self {
        Self { validator, patience, best: None, best_step: 0, worse: 0 }
    }
}

impl Persist for EarlyStopping {
    fn state(&self) -> State {
        let mut state = self.validator.state();
        state.values.insert("best".to_owned(), self.best.into());
        state.set_count("best_step", self.best_step);
        state.set_count("worse", self.worse);
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.best = state.values.remove("best").and_then(|v| v.as_f64());
        self.best_step = state.count("best_step")?;
        self.worse = state.count("worse")?;
        self.validator.load_state(state)
    }
}

impl Observer for EarlyStopping {
    fn name(&self) -> &'static str {
        self.validator.name()
    }

    fn score(&self) -> Option<(&'static str, f64)> {
        self.validator.score()
    }

    fn after_step(&mut self, clock: Clock, evaluation: &Evaluation, update: &dyn Update) -> Result<Flow> {
        let done = clock.step + 1;
        self.validator.after_step(clock, evaluation, update)?;
        let Some(losses) =
            self.validator.latest.as_ref().filter(|_| done.is_multiple_of(self.validator.every))
        else {
            return Ok(Flow::Continue);
        };
        let latest = losses.mean_held_out();
        if self.best.is_none_or(|best| latest < best) {
            (self.best, self.best_step, self.worse) = (Some(latest), done, 0);
            return Ok(Flow::Continue);
        }
        self.worse += 1;
        if self.worse < self.patience {
            return Ok(Flow::Continue);
        }
        let best = self.best.unwrap_or(latest);
        Ok(Flow::Stop(format!("held-out loss has not fallen below {best:.5} since step {}", self.best_step)))
    }
}
