//! Watching for copies while training.

use crate::record::{Event, Sink};
use heldout_core::{Clock, Evaluation, FeatureSets, Flow, Metric, Observer, Persist, Result, Update};
use std::fmt;
use std::rc::Rc;
use tch::Tensor;

/// Draws samples every `every` steps and measures how many are copies, beside the floor.
pub struct MemorizationMonitor {
    /// `n` samples `[n, C, H, W]` of the model as it stands, the same initial noise every time.
    pub generate: Box<dyn Fn(usize) -> Result<Tensor>>,
    /// How many.
    pub samples: usize,
    /// How often, in steps; the last step is left to the final evaluation.
    pub every: u64,
    /// Training images `[N, C, H, W]`, all of them.
    pub train: Tensor,
    /// Held-out images `[M, C, H, W]`: the floor.
    pub held_out: Tensor,
    /// What to measure.
    pub metrics: Vec<Box<dyn Metric>>,
    /// Where it goes.
    pub sink: Rc<dyn Sink>,
}

impl fmt::Debug for MemorizationMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, every, metrics, .. } = self;
        f.debug_struct("MemorizationMonitor")
            .field("samples", samples)
            .field("every", every)
            .field("metrics", metrics)
            .finish()
    }
}

impl Persist for MemorizationMonitor {}

impl Observer for MemorizationMonitor {
    fn name(&self) -> &'static str {
        "memorization"
    }

    fn after_step(&mut self, clock: Clock, _: &Evaluation, update: &dyn Update) -> Result<Flow> {
        let done = clock.step + 1;
        if !done.is_multiple_of(self.every) || done == clock.total {
            return Ok(Flow::Continue);
        }
        let generated = {
            let _guard = update.eval_weights();
            (self.generate)(self.samples)?
        };
        let sets = FeatureSets { generated: &generated, train: &self.train, held_out: &self.held_out };
        for metric in &self.metrics {
            let measurement = metric.evaluate(&sets)?;
            let event =
                Event::Memorization { metric: metric.name().to_owned(), samples: self.samples, measurement };
            self.sink.write(done, event)?;
        }
        Ok(Flow::Continue)
    }
}
