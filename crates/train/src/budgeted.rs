//! An observer that may take no more than a share of the time.

use crate::record::{Event, Sink};
use heldout_core::{Clock, Error, Evaluation, Flow, Observer, Result, Update, persists_inner};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Leaves an observer out while what it has taken would be more than its share of the time since the run began, or went on,
/// if it looked again for as long as the last time. The first look is not left out: what it takes is not known.
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
    last: Duration,
}

impl<O: Observer> Budgeted<O> {
    /// `share` in (0, 1).
    pub fn new(inner: O, share: f64, sink: Rc<dyn Sink>) -> Result<Self> {
        if !(share > 0.0 && share < 1.0) {
            let reason = format!("{share} is not between 0 and 1: it is a share of the training time");
            return Err(Error::config("budget", reason));
        }
        Ok(Self { inner, share, sink, begun: Instant::now(), taken: Duration::ZERO, last: Duration::ZERO })
    }

    /// Once the observer has looked for `more`.
    fn share_taken(&self, more: Duration) -> f64 {
        let elapsed = self.begun.elapsed() + more;
        (self.taken + more).as_secs_f64() / elapsed.as_secs_f64().max(f64::MIN_POSITIVE)
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
        let flow = if self.share_taken(self.last) > self.share {
            Flow::Continue
        } else {
            let start = Instant::now();
            let flow = self.inner.after_step(clock, evaluation, update)?;
            self.last = start.elapsed();
            self.taken += self.last;
            flow
        };
        let done = clock.step + 1;
        if done == clock.total || flow != Flow::Continue {
            let message = format!(
                "{} took {:.1} % of the training time, of {:.1} % that it may",
                self.name(),
                100.0 * self.share_taken(Duration::ZERO),
                100.0 * self.share
            );
            self.sink.write(done, Event::Note { message })?;
        }
        Ok(flow)
    }
}
