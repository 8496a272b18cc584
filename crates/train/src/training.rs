//! The training loop.

use crate::Checkpoints;
use heldout_core::{
    BatchSource, Clock, Error, Flow, Objective, Observer, Persist, Result, State, Update, stream,
};
use std::sync::atomic::{AtomicBool, Ordering};

/// Which steps to run, and the seed of their draws.
#[derive(Debug, Clone, Copy)]
pub struct Run {
    /// Every draw of a step is a function of this, the step and the rank.
    pub seed: u64,
    /// This process among those that train together; 0 alone.
    pub rank: u64,
    /// Steps done already.
    pub from: u64,
    /// Where to stop; the same as `total` for all of them.
    pub until: u64,
    /// Steps of the whole run: what learning rates and other curves are measured by.
    pub total: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// An observer asked for it, and why.
    Stopped(String),
    /// Somebody set the interrupt flag; the steps done so far.
    Interrupted(u64),
}

/// The parts of a run.
#[derive(Debug)]
pub struct Training<'a> {
    /// Batches.
    pub data: &'a mut dyn BatchSource,
    /// Their loss.
    pub objective: &'a mut dyn Objective,
    /// What it does to the weights.
    pub update: &'a mut dyn Update,
    /// Those who watch.
    pub observers: &'a mut [Box<dyn Observer>],
    /// Where the state goes. Not an observer, since it writes the observers' state down too.
    pub checkpoints: Option<&'a mut Checkpoints>,
    /// Why an observer has stopped the run, if one has: a run that is resumed after that stays stopped.
    pub stopped: Option<String>,
}

impl Persist for Training<'_> {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("weights", self.update.params().state());
        state.nest("update", self.update.state());
        state.nest("objective", self.objective.state());
        self.observers.iter().for_each(|o| state.nest(&format!("observer {}", o.name()), o.state()));
        state.values.extend(self.stopped.clone().map(|why| ("stopped".to_owned(), why.into())));
        state
    }

    /// Weights first; they are shared with the model, so that overwriting them in place is enough.
    fn load_state(&mut self, mut state: State) -> Result<()> {
        let mut weights = state.unnest("weights");
        for (name, t) in self.update.params().named() {
            weights.restore(name, &mut t.shallow_clone())?;
        }
        if let Some(name) = weights.tensors.keys().next() {
            return Err(Error::config(format!("weights/{name}"), "the checkpoint is of another model"));
        }
        self.stopped = state.values.get("stopped").and_then(|v| v.as_str()).map(str::to_owned);
        self.update.load_state(state.unnest("update"))?;
        self.objective.load_state(state.unnest("objective"))?;
        let mut observers = self.observers.iter_mut();
        observers.try_for_each(|o| o.load_state(state.unnest(&format!("observer {}", o.name()))))
    }
}

impl Training<'_> {
    fn save(&mut self, step: u64) -> Result<()> {
        let scores = self.observers.iter().filter_map(|o| o.score());
        let scores = scores.map(|(name, score)| (name.to_owned(), score)).collect();
        if self.checkpoints.is_none() {
            return Ok(());
        }
        let state = self.state();
        self.checkpoints.as_mut().map_or(Ok(()), |c| c.save(step, &scores, &state))
    }
}

/// Runs the steps `run.from..run.until`. Every draw of step `k` is a function of `(seed, k, rank)`, so that a run that
/// was cut and resumed goes the way of one that was not.
pub fn train(run: Run, mut parts: Training<'_>, interrupt: &AtomicBool) -> Result<Ending> {
    if let Some(why) = parts.stopped {
        return Ok(Ending::Stopped(why));
    }
    let until = run.until.min(run.total);
    for step in run.from..until {
        let clock = Clock { step, total: run.total };
        let batch = parts.data.batch(clock)?;
        tch::manual_seed(stream(run.seed, "step", step, run.rank) as i64);
        let evaluation = parts.update.update(parts.objective, &batch, clock)?;
        for observer in parts.observers.iter_mut() {
            if let Flow::Stop(why) =
                observer.after_step(Clock { step, total: until }, &evaluation, parts.update)?
            {
                parts.stopped.get_or_insert(why);
            }
        }
        let done = step + 1;
        let interrupted = interrupt.load(Ordering::Relaxed);
        let due = parts.checkpoints.as_ref().is_some_and(|c| c.due(done));
        if due || interrupted || parts.stopped.is_some() || done == until {
            parts.save(done)?;
        }
        if let Some(why) = parts.stopped {
            return Ok(Ending::Stopped(why));
        }
        if interrupted {
            return Ok(Ending::Interrupted(done));
        }
    }
    Ok(Ending::Finished)
}
