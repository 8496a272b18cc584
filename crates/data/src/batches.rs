//! Batches as a function of seed, step and rank.

use crate::Examples;
use crate::repeat::places;
use heldout_core::{Batch, BatchSource, Clock, Cond, Error, Result, stream};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::rc::Rc;
use tch::{Device, Tensor};

/// Sets below this stay on the device; larger ones are read per batch, so that memory does not grow with them.
const RESIDENT_BYTES: usize = 256 << 20;

/// Shuffled epochs without replacement: place `step * world * n + rank * n + i` of the endless sequence of epochs, each a
/// permutation that is a function of the seed and its number. Labels go with the images of sets that have them.
///
/// Law: an epoch draws every example as often as it stands in it, once if nothing is repeated.
#[derive(Debug)]
pub struct Batches {
    set: Rc<dyn Examples>,
    indices: Vec<usize>,
    /// Places in `indices` of the draws of an epoch, in order; each place once if absent.
    draws: Option<Vec<usize>>,
    /// The class of each place.
    labels: Option<Vec<i64>>,
    batch_size: usize,
    seed: u64,
    rank: u64,
    world: u64,
    device: Device,
    /// All `[N, C, H, W]` as they are stored, on the device, where they are few enough.
    resident: Option<Tensor>,
    /// The epoch whose order is at hand.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Batches {
    /// Of the examples `indices` of `set`, for process `rank` of `world`.
    ///
    /// # Errors
    /// A batch of none, or of more than there are different examples.
    pub fn new(
        set: Rc<dyn Examples>,
        indices: Vec<usize>,
        batch_size: usize,
        seed: u64,
        (rank, world): (u64, u64),
        device: Device,
    ) -> Result<Self> {
        if batch_size == 0 || batch_size > indices.len() {
            let reason = format!(
                "{batch_size} for a training set of {}: at least 1, and no more than the training images",
                indices.len()
            );
            return Err(Error::config("batch_size", reason));
        }
        let fits = indices.len() * set.bytes_each() <= RESIDENT_BYTES;
        let resident = fits.then(|| set.stored(&indices).map(|t| t.to_device(device))).transpose()?;
        let labels = set.labels().map(|all| indices.iter().map(|i| all[*i]).collect());
        let (draws, epoch) = (None, None);
        Ok(Self { set, indices, draws, labels, batch_size, seed, rank, world, device, resident, epoch })
    }

    /// The same where example `i` stands `times[i]` times in an epoch. [`Batch::index`] stays the place among
    /// the different examples.
    ///
    /// # Errors
    /// Not a number for every example, one that is 0, or an epoch that no memory holds.
    pub fn repeated(self, times: &[usize]) -> Result<Self> {
        self.check_each(times.len(), "repeat")?;
        if let Some(place) = times.iter().position(|n| *n == 0) {
            let reason = format!("0 times for training image {place}: at least 1 is needed");
            return Err(Error::config("repeat", reason));
        }
        if times.iter().all(|n| *n == 1) {
            return Ok(Self { draws: None, epoch: None, ..self });
        }
        let draws = places(times).map_err(|reason| Error::config("repeat", reason))?;
        Ok(Self { draws: Some(draws), epoch: None, ..self })
    }

    /// The same where example `i` has the class `labels[i]`, or where none has one.
    ///
    /// # Errors
    /// Not a class for every example.
    pub fn labelled(self, labels: Option<Vec<i64>>) -> Result<Self> {
        labels.as_ref().map_or(Ok(()), |labels| self.check_each(labels.len(), "labels"))?;
        Ok(Self { labels, ..self })
    }

    fn check_each(&self, found: usize, field: &str) -> Result<()> {
        let n = self.indices.len();
        if found == n {
            return Ok(());
        }
        Err(Error::config(field, format!("{found} for a training set of {n}: one for each is needed")))
    }

    /// Places in `indices` of the batch of `step`.
    fn places(&mut self, step: u64) -> Vec<usize> {
        let (n, size) = (self.draws_of_epoch() as u64, self.batch_size as u64);
        let first = (step * self.world + self.rank) * size;
        (first..first + size).map(|place| self.order(place / n)[(place % n) as usize]).collect()
    }

    fn draws_of_epoch(&self) -> usize {
        self.draws.as_ref().map_or(self.indices.len(), Vec::len)
    }

    fn order(&mut self, epoch: u64) -> &[usize] {
        if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
            let mut order = permutation(self.draws_of_epoch(), stream(self.seed, "epoch", epoch, 0));
            if let Some(draws) = &self.draws {
                order.iter_mut().for_each(|draw| *draw = draws[*draw]);
            }
            self.epoch = Some((epoch, order));
        }
        self.epoch.as_ref().map_or(&[], |(_, order)| order)
    }
}

impl BatchSource for Batches {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        let places = self.places(clock.step);
        let index: Vec<i64> = places.iter().map(|p| *p as i64).collect();
        let index = Tensor::from_slice(&index).to_device(self.device);
        let x_start = match &self.resident {
            Some(images) => self.set.values(&images.index_select(0, &index)),
            None => {
                let rows: Vec<usize> = places.iter().map(|p| self.indices[*p]).collect();
                self.set.on(&rows, self.device)?
            }
        };
        let label = self.labels.as_ref().map(|labels| {
            let rows: Vec<i64> = places.iter().map(|p| labels[*p]).collect();
            Tensor::from_slice(&rows).to_device(self.device)
        });
        Ok(Batch { index: Some(index), ..Batch::new(x_start, Cond { label, ..Cond::default() }) })
    }
}

/// The numbers below `n` in the order of Fisher and Yates, by ChaCha8 from `seed`: the same for ever, on every machine.
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        let j = below(&mut rng, i as u64 + 1) as usize;
        order.swap(i, j);
    }
    order
}

/// A draw from `0..n`: multiply-shift of 64 random bits, whose bias is below `n / 2^64`.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(n)) >> 64) as u64
}
