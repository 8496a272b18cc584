//! Labels of images for which several classes hold.

use crate::batches::below;
use heldout_core::{Batch, BatchSource, Clock, Cond, Error, Result, stream};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use tch::Tensor;

/// Batches whose label is one of the classes that hold for the example, drawn anew at every step, each as likely: a network
/// that is told of one class at a time learns the conditions that are composed in sampling; Liu et al. 2022, section 3.
///
/// Law: the batches of the source, but for `cond.label`; a function of the seed, the rank and the clock.
#[derive(Debug)]
pub struct DrawnLabels<S> {
    inner: S,
    /// By place in the training set, none of them empty.
    classes: Vec<Vec<i64>>,
    seed: u64,
    rank: u64,
}

impl<S: BatchSource> DrawnLabels<S> {
    /// `classes` are those of each example of the source, by [`Batch::index`].
    ///
    /// # Errors
    /// An example of no class.
    pub fn new(inner: S, classes: Vec<Vec<i64>>, (seed, rank): (u64, u64)) -> Result<Self> {
        match classes.iter().position(Vec::is_empty) {
            Some(place) => Err(Error::config("labels", format!("training image {place} is of no class"))),
            None => Ok(Self { inner, classes, seed, rank }),
        }
    }
}

impl<S: BatchSource> BatchSource for DrawnLabels<S> {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        let batch = self.inner.batch(clock)?;
        let fail = |reason: &str| Error::config("labels", reason);
        let index =
            batch.index.as_ref().ok_or_else(|| fail("the batches do not say which images they are of"))?;
        let mut rng = ChaCha8Rng::seed_from_u64(stream(self.seed, "drawn labels", clock.step, self.rank));
        let labels: Vec<i64> = Vec::<i64>::try_from(index)?
            .into_iter()
            .map(|place| {
                let of = usize::try_from(place).ok().and_then(|place| self.classes.get(place));
                let of = of.ok_or_else(|| fail("the batches hold other images than the classes are of"))?;
                Ok(of[below(&mut rng, of.len() as u64) as usize])
            })
            .collect::<Result<_>>()?;
        let label = Tensor::from_slice(&labels).to_device(batch.x_start.device());
        let cond = Cond { label: Some(label), ..batch.cond };
        Ok(Batch { cond, ..batch })
    }
}
