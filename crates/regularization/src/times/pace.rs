//! When a curriculum goes on to its next stage.

use heldout_core::{Clock, Error, Persist, Result, State};
use serde::{Deserialize, Serialize};
use std::fmt;
use tch::{Device, Kind, Tensor};

/// When a curriculum goes on to its next stage. Shares are of the whole run, in (0, 1): the full range is always reached.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Pace {
    /// The stages before the full range take equal parts of the first share `until` of the steps.
    Share {
        /// Share of the run from which on all levels are trained.
        until: f64,
    },
    /// Where the training loss of the stage stands still; the pace of Kim et al. 2025.
    Plateau {
        /// Steps without an improvement.
        patience: u64,
        /// Decay of the running mean of the loss by step, in [0, 1).
        smoothing: f64,
        /// By which share the running mean must fall below its lowest to count as an improvement, in [0, 1).
        improvement: f64,
        /// The stages begin at equal parts of this share of the run at the latest.
        latest: f64,
    },
    /// Where the held-out loss of the stage's levels has stopped falling: early stopping of each stage.
    HeldOut {
        /// Steps between looks.
        every: u64,
        /// Looks in a row without a new lowest loss.
        patience: u64,
        /// The stages begin at equal parts of this share of the run at the latest.
        latest: f64,
    },
}

impl Default for Pace {
    fn default() -> Self {
        Self::Share { until: 0.6 }
    }
}

impl Pace {
    /// Whether it reaches the full range, or which field keeps it from there.
    pub fn check(&self) -> Result<()> {
        let share = |field: &str, value: f64| {
            let reason =
                format!("{value} is not between 0 and 1, and all levels must be reached within the run");
            if value > 0.0 && value < 1.0 { Ok(()) } else { Err(Error::config(field, reason)) }
        };
        let count = |field: &str, value: u64| match value {
            0 => Err(Error::config(field, "0: at least 1 is needed")),
            _ => Ok(()),
        };
        let fraction = |field: &str, value: f64| {
            let fail = || Error::config(field, format!("{value} is not in [0, 1)"));
            if (0.0..1.0).contains(&value) { Ok(()) } else { Err(fail()) }
        };
        match *self {
            Self::Share { until } => share("until", until),
            Self::Plateau { patience, smoothing, improvement, latest } => {
                count("patience", patience)?;
                fraction("smoothing", smoothing)?;
                fraction("improvement", improvement)?;
                share("latest", latest)
            }
            Self::HeldOut { every, patience, latest } => {
                count("every", every)?;
                count("patience", patience)?;
                share("latest", latest)
            }
        }
    }

    /// The share of the run at which the full range is trained at the latest.
    fn latest(&self) -> f64 {
        match *self {
            Self::Share { until } => until,
            Self::Plateau { latest, .. } | Self::HeldOut { latest, .. } => latest,
        }
    }

    /// The stage, from 0 on, of `stages` that has begun at this step whatever was observed.
    fn due(&self, stages: usize, clock: Clock) -> usize {
        let begins = |stage: usize| {
            let share = self.latest() * stage as f64 / (stages - 1) as f64;
            // Rounding must not make a whole number of steps one more; the last step has the full range in any case.
            ((share * clock.total as f64 - 1e-9).ceil() as u64).min(clock.total.saturating_sub(1))
        };
        (1..stages).take_while(|stage| begins(*stage) <= clock.step).count()
    }
}

/// The held-out loss at noise levels, `ln(alpha^2 / sigma^2)`, of the weights as they stand. It may reseed libtorch's
/// generator.
pub struct HeldOutLoss(pub LevelsLoss);

type LevelsLoss = Box<dyn Fn(&[f64]) -> f64>;

impl fmt::Debug for HeldOutLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HeldOutLoss")
    }
}

impl HeldOutLoss {
    /// The loss at `levels`. What is drawn after it is a function of what the generator was before it, whatever seeds are set
    /// within.
    fn look(&self, levels: &[f64]) -> f64 {
        let seed = Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]);
        let loss = (self.0)(levels);
        tch::manual_seed(seed);
        loss
    }
}

/// The stage of a run and what was seen in it.
#[derive(Debug)]
pub(super) struct Progress {
    pace: Pace,
    held_out: Option<HeldOutLoss>,
    stages: usize,
    /// From 0 on.
    pub(super) stage: usize,
    seen: Seen,
}

/// What is known of the present stage.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Seen {
    /// The step of the last draw.
    step: Option<u64>,
    /// Sum of the mean losses observed since then, and how many.
    pending: (f64, u64),
    /// Running mean of the loss, and of how many steps.
    mean: (f64, u64),
    lowest: Option<f64>,
    /// Steps or looks since then.
    since: u64,
}

impl Progress {
    pub(super) fn new(pace: Pace, stages: usize, held_out: Option<HeldOutLoss>) -> Result<Self> {
        if stages > 1 && held_out.is_none() && matches!(pace, Pace::HeldOut { .. }) {
            let reason =
                "held_out needs a held-out loss, and there is none here: use \"share\" or \"plateau\"";
            return Err(Error::config("pace.kind", reason));
        }
        Ok(Self { pace, held_out, stages, stage: 0, seen: Seen::default() })
    }

    /// Whether all levels are trained.
    pub(super) fn is_full(&self) -> bool {
        self.stage + 1 >= self.stages
    }

    /// Before a draw: goes on where it is time. `levels` are those of a stage.
    pub(super) fn advance(&mut self, clock: Clock, levels: impl Fn(usize) -> Vec<f64>) {
        if self.is_full() || self.seen.step == Some(clock.step) {
            return; // several draws of a step are of one stage
        }
        let ended = self.seen.step.replace(clock.step).is_some();
        let over = match self.pace {
            Pace::Share { .. } => false,
            Pace::Plateau { patience, smoothing, improvement, .. } => {
                self.seen.step_is_over(smoothing, improvement) && self.seen.since >= patience
            }
            Pace::HeldOut { every, patience, .. } => match &self.held_out {
                Some(held_out) if ended && clock.step.is_multiple_of(every) => {
                    self.seen.compare(held_out.look(&levels(self.stage)), 0.0);
                    self.seen.since >= patience
                }
                _ => false,
            },
        };
        let next = (self.stage + usize::from(over)).max(self.pace.due(self.stages, clock));
        if next > self.stage {
            (self.stage, self.seen) = (next, Seen { step: Some(clock.step), ..Seen::default() });
        }
    }

    /// After a draw: the loss by noise level, `[B]`.
    pub(super) fn observe(&mut self, loss: &Tensor) {
        if self.is_full() || !matches!(self.pace, Pace::Plateau { .. }) {
            return; // no round trip to the host where nobody asks
        }
        let loss = loss.mean(Kind::Double).double_value(&[]);
        if loss.is_finite() {
            self.seen.pending = (self.seen.pending.0 + loss, self.seen.pending.1 + 1);
        }
    }
}

impl Seen {
    /// Takes the losses of the last step in; whether there were any.
    fn step_is_over(&mut self, smoothing: f64, improvement: f64) -> bool {
        let (sum, losses) = std::mem::take(&mut self.pending);
        if losses == 0 {
            return false;
        }
        let (mean, steps) = self.mean;
        // A plain mean at first, so that the first loss is not remembered for ever.
        let keep = smoothing.min(steps as f64 / (steps + 1) as f64);
        self.mean = (keep * mean + (1.0 - keep) * sum / losses as f64, steps + 1);
        // The mean of a few steps is low by chance: it counts once it is as long as it gets.
        if (steps + 1) as f64 >= 1.0 / (1.0 - smoothing) - 1e-9 {
            self.compare(self.mean.0, improvement);
        }
        true
    }

    fn compare(&mut self, loss: f64, improvement: f64) {
        if self.lowest.is_none_or(|lowest| loss < lowest * (1.0 - improvement)) {
            (self.lowest, self.since) = (Some(loss), 0);
        } else {
            self.since += 1;
        }
    }
}

impl Persist for Progress {
    fn state(&self) -> State {
        let mut state = State::default();
        state.set_count("stage", self.stage as u64);
        state.values.insert("seen".to_owned(), serde_json::json!(self.seen));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let stage = state.count("stage")? as usize;
        if stage >= self.stages {
            return Err(Error::config("stage", format!("{stage} is not one of {}", self.stages)));
        }
        let seen = state.values.remove("seen").unwrap_or_default();
        self.seen = serde_json::from_value(seen).map_err(|e| Error::config("seen", e.to_string()))?;
        self.stage = stage;
        Ok(())
    }
}
