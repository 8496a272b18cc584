//! Stopping a run that begins to memorise.

use crate::{Losses, Validator};
use heldout_core::{Clock, Error, Evaluation, Flow, Observer, Persist, Result, State, Update};
use serde::{Deserialize, Serialize};

/// When to stop, as a recipe writes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum EarlyStoppingConfig {
    /// The mean held-out loss has brought no new lowest value; Prechelt 1998, the UP criterion's kin.
    HeldOutLoss {
        /// Validations in a row.
        patience: u64,
    },
    /// The held-out loss has left the training loss, which tells earlier and by noise level: memorisation opens the gap at
    /// middle levels first; Favero et al. 2025.
    Gap {
        /// The largest `(held_out - train) / held_out` that is let pass, below 1.
        limit: f64,
        /// Noise levels of the validation at which it must be exceeded.
        levels: usize,
        /// Validations in a row.
        patience: u64,
    },
}

impl EarlyStoppingConfig {
    /// Whether it can ever stop a run, or which field keeps it from that.
    pub fn check(&self) -> Result<()> {
        let (Self::HeldOutLoss { patience } | Self::Gap { patience, .. }) = *self;
        if patience == 0 {
            return Err(Error::config("patience", "0: at least 1 validation is needed"));
        }
        match *self {
            Self::Gap { limit, .. } if !(0.0..1.0).contains(&limit) => {
                let reason = format!("{limit} is not in [0, 1): the gap is a share of the held-out loss");
                Err(Error::config("limit", reason))
            }
            Self::Gap { levels: 0, .. } => Err(Error::config("levels", "0: at least 1 is needed")),
            _ => Ok(()),
        }
    }
}

/// Stops by the losses of a validation: see [`EarlyStoppingConfig`].
#[derive(Debug)]
pub struct EarlyStopping {
    validator: Validator,
    config: EarlyStoppingConfig,
    best: Option<f64>,
    best_step: u64,
    /// Validations in a row that spoke for stopping.
    worse: u64,
}

impl EarlyStopping {
    /// Around the validation that it listens to.
    pub fn new(validator: Validator, config: EarlyStoppingConfig) -> Result<Self> {
        config.check()?;
        let known = validator.sets.log_snr.len();
        match config {
            EarlyStoppingConfig::Gap { levels, .. } if levels > known => {
                Err(Error::config("levels", format!("{levels}, of {known} that the validation has")))
            }
            _ => Ok(Self { validator, config, best: None, best_step: 0, worse: 0 }),
        }
    }

    /// Takes the losses of step `done` in; why to stop, if it is time.
    fn judge(&mut self, losses: &Losses, done: u64) -> Option<String> {
        match self.config {
            EarlyStoppingConfig::HeldOutLoss { patience } => {
                let latest = losses.mean_held_out();
                if self.best.is_none_or(|best| latest < best) {
                    (self.best, self.best_step, self.worse) = (Some(latest), done, 0);
                    return None;
                }
                self.worse += 1;
                let (best, step) = (self.best.unwrap_or(latest), self.best_step);
                (self.worse >= patience)
                    .then(|| format!("held-out loss has not fallen below {best:.5} since step {step}"))
            }
            EarlyStoppingConfig::Gap { limit, levels, patience } => {
                let gaps = losses.gaps();
                let beyond = gaps.iter().filter(|gap| **gap > limit).count();
                self.worse = if beyond >= levels { self.worse + 1 } else { 0 };
                let widest = (0..gaps.len()).max_by(|a, b| gaps[*a].total_cmp(&gaps[*b]))?;
                (self.worse >= patience).then(|| {
                    format!(
                        "held-out loss has left the training loss: {:.5} against {:.5} at log SNR {}, a gap of {:.1} % \
                         with a limit of {:.1} %, exceeded at {beyond} noise levels and in {} validations in a row",
                        losses.held_out[widest],
                        losses.train[widest],
                        self.validator.sets.log_snr[widest],
                        100.0 * gaps[widest],
                        100.0 * limit,
                        self.worse,
                    )
                })
            }
        }
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
        let looked = done.is_multiple_of(self.validator.every);
        let Some(losses) = self.validator.latest.clone().filter(|_| looked) else {
            return Ok(Flow::Continue);
        };
        Ok(self.judge(&losses, done).map_or(Flow::Continue, Flow::Stop))
    }
}
