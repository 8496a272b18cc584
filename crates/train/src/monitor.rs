//! Watching for copies while training.

use crate::record::{Event, Sink};
use heldout_core::{
    Clock, Error, Evaluation, FeatureSets, Flow, Metric, Observer, Persist, Result, State, Update,
};
use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use tch::Tensor;

/// Draws samples every `every` steps and measures how many are copies, beside the floor, and how good they are.
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
    /// How good samples are, which makes the score `quality` of a checkpoint.
    pub quality: Option<Quality>,
    /// Where it goes.
    pub sink: Rc<dyn Sink>,
    /// What could not be measured at one look or another: it is noted once, and training goes on. Empty at first.
    pub told: BTreeSet<String>,
}

impl MemorizationMonitor {
    /// What samples lack for a metric is no reason to stop; whatever else went wrong is.
    fn tell(&mut self, step: u64, metric: String, e: Error) -> Result<()> {
        if !matches!(e, Error::Config { .. }) {
            return Err(e);
        }
        let message =
            format!("{metric} could not be measured of the samples of step {step}, and is left out: {e}");
        match self.told.insert(metric) {
            true => self.sink.write(step, Event::Note { message }),
            false => Ok(()),
        }
    }
}

/// A distance of two sets of images `[N, C, H, W]`, low where they are of one distribution.
pub type Distance = Box<dyn Fn(&Tensor, &Tensor) -> Result<f64>>;

/// How far the generated images are from the held-out ones, by a distance of distributions, beside the same between two
/// halves of the held-out ones.
pub struct Quality {
    name: String,
    distance: Distance,
    floor: OnceCell<f64>,
    latest: Option<f64>,
}

impl Quality {
    /// A distance with its name in records.
    pub fn new(name: impl Into<String>, distance: Distance) -> Self {
        Self { name: name.into(), distance, floor: OnceCell::new(), latest: None }
    }

    /// Of images `[N, C, H, W]` and `[M, C, H, W]`; [`Event::Quality`].
    pub fn measure(&mut self, generated: &Tensor, held_out: &Tensor) -> Result<Event> {
        let value = (self.distance)(generated, held_out)?;
        let floor = match self.floor.get() {
            Some(floor) => *floor,
            None => {
                let (n, half) = (held_out.size()[0], held_out.size()[0] / 2);
                let (first, second) = (held_out.narrow(0, 0, half), held_out.narrow(0, half, n - half));
                let floor = (self.distance)(&first, &second)?;
                *self.floor.get_or_init(|| floor)
            }
        };
        self.latest = Some(value);
        Ok(Event::Quality { metric: self.name.clone(), samples: generated.size()[0] as usize, value, floor })
    }
}

impl fmt::Debug for Quality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quality")
            .field("name", &self.name)
            .field("latest", &self.latest)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for MemorizationMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, every, metrics, quality, .. } = self;
        f.debug_struct("MemorizationMonitor")
            .field("samples", samples)
            .field("every", every)
            .field("metrics", metrics)
            .field("quality", quality)
            .finish_non_exhaustive()
    }
}

impl Persist for MemorizationMonitor {
    fn state(&self) -> State {
        let mut state = State::default();
        let latest = self.quality.as_ref().and_then(|q| q.latest);
        state.values.extend(latest.map(|score| ("quality".to_owned(), score.into())));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let Some(quality) = &mut self.quality else { return Ok(()) };
        let saved = state.values.remove("quality").map(|v| {
            v.as_f64().ok_or_else(|| Error::config("quality", "is not a number in the saved state"))
        });
        quality.latest = saved.transpose()?;
        Ok(())
    }
}

impl Observer for MemorizationMonitor {
    fn name(&self) -> &'static str {
        "memorization"
    }

    fn score(&self) -> Option<(&'static str, f64)> {
        Some(("quality", self.quality.as_ref()?.latest?))
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
        let mut missing = Vec::new();
        for metric in &self.metrics {
            let all = metric.evaluate(&sets).unwrap_or_else(|e| vec![("metrics".to_owned(), Err(e))]);
            for (metric, found) in all {
                match found {
                    Ok(measurement) => {
                        self.sink
                            .write(done, Event::Metric { metric, samples: self.samples, measurement })?;
                    }
                    Err(e) => missing.push((metric, e)),
                }
            }
        }
        if let Some(quality) = &mut self.quality {
            match quality.measure(&generated, &self.held_out) {
                Ok(event) => self.sink.write(done, event)?,
                Err(e) => missing.push((quality.name.clone(), e)),
            }
        }
        missing.into_iter().try_for_each(|(metric, e)| self.tell(done, metric, e))?;
        Ok(Flow::Continue)
    }
}
