//! Batches that are changed on the way.

use heldout_core::{Augment, Batch, BatchSource, Clock, Result, stream};

/// A source of batches, each changed by a list of augmentations, from the first to the last.
///
/// Law: a function of the seed and the clock; without augmentations the source itself.
#[derive(Debug)]
pub struct Augmented<S> {
    /// The source.
    pub inner: S,
    /// In the order in which they act.
    pub augments: Vec<Box<dyn Augment>>,
    /// Of the run.
    pub seed: u64,
    /// Which of several processes this is.
    pub rank: u64,
}

impl<S: BatchSource> BatchSource for Augmented<S> {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        let batch = self.inner.batch(clock)?;
        if self.augments.is_empty() {
            return Ok(batch);
        }
        tch::manual_seed(stream(self.seed, "augment", clock.step, self.rank) as i64);
        Ok(self.augments.iter_mut().fold(batch, |batch, augment| augment.augment(batch, clock)))
    }
}
