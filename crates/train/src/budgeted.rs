//! An observer that may take no more than a share of the time.

use crate::record::{Event, Sink};
use heldout_core::{Clock, Error, Evaluation, Flow, Observer, Result, Update, persists_inner};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Leaves an observer out while what it has taken is more than its share of the time since the run began, or went on: after a
/// dear look it waits until the share is kept again.
///
/// For an observer that looks now and then, as [`crate::MemorizationMonitor`]. When it looks is a function of the machine, so
/// that records, though never weights, differ between two runs with a budget.
#[derive(Debug)]
pub struct Budgeted<O> {
    inner: O,
    /// Of the time.
    share: f64,
    sink: Rc<dyn Sink>,
    begun: Instant,
    taken: Duration,
}

impl<O: Observer> Budgeted<O> {
    /// `share` in (0, 1).
    pub fn new(inner: O, share: f64, sink: Rc<dyn Sink>) -> Result<Self> {
        if !(share > 0.0 && share < 1.0) {
            let reason = format!("{share} is not between 0 and 1: it is a share of the training time");
            return Err(Error::config("budget", reason));
        }
        Ok(Self { inner, share, sink, begun: Instant::now(), taken: Duration::ZERO })
    }

    fn share_taken(&self) -> f64 {
        self.taken.as_secs_f64() / self.begun.elapsed().as_secs_f64().max(f64::MIN_POSITIVE)
    }
}

persists_inner!(Budgeted<O>);

impl<O: Observer> Observer for Budgeted<O> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn score(&self) -> Option<(&'static str, f64)> {
        self.inner.score()
    }

    fn after_step(&mut self, clock: Clock, evaluation: &Evaluation, update: &dyn Update) -> Result<Flow> {
        let flow = if self.share_taken() > self.share {
            Flow::Continue
        } else {
            let start = Instant::now();
            let flow = self.inner.after_step(clock, evaluation, update)?;
            self.taken += start.elapsed();
            flow
        };
        let done = clock.step + 1;
        if done == clock.total || flow != Flow::Continue {
            let message = format!(
                "{} took {:.1} % of the training time, of {:.1} % that it may",
                self.name(),
                100.0 * self.share_taken(),
                100.0 * self.share
            );
            self.sink.write(done, Event::Note { message })?;
        }
        Ok(flow)
    }
}
