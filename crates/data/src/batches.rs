//! Batches as a function of seed, step and rank.

use crate::Examples;
use heldout_core::{Batch, BatchSource, Clock, Cond, Error, Result, stream};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::rc::Rc;
use tch::{Device, Tensor};

/// Sets below this stay on the device; larger ones are read per batch, so that memory does not grow with them.
const RESIDENT_BYTES: usize = 256 << 20;

/// Shuffled epochs without replacement: place `step * world * n + rank * n + i` of the endless sequence of epochs, each a
/// permutation that is a function of the seed and its number. Labels go with the images of sets that have them.
#[derive(Debug)]
pub struct Batches {
    set: Rc<dyn Examples>,
    indices: Vec<usize>,
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
        Ok(Self { set, indices, batch_size, seed, rank, world, device, resident, epoch: None })
    }

    /// Places in `indices` of the batch of `step`.
    fn places(&mut self, step: u64) -> Vec<usize> {
        let (n, size) = (self.indices.len() as u64, self.batch_size as u64);
        let first = (step * self.world + self.rank) * size;
        (first..first + size).map(|place| self.order(place / n)[(place % n) as usize]).collect()
    }

    fn order(&mut self, epoch: u64) -> &[usize] {
        if self.epoch.as_ref().is_none_or(|(e, _)| *e != epoch) {
            self.epoch = Some((epoch, permutation(self.indices.len(), stream(self.seed, "epoch", epoch, 0))));
        }
        self.epoch.as_ref().map_or(&[], |(_, order)| order)
    }
}

impl BatchSource for Batches {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        let places = self.places(clock.step);
        let x_start = match &self.resident {
            Some(images) => {
                let rows: Vec<i64> = places.iter().map(|p| *p as i64).collect();
                let rows = Tensor::from_slice(&rows).to_device(self.device);
                self.set.values(&images.index_select(0, &rows))
            }
            None => {
                let rows: Vec<usize> = places.iter().map(|p| self.indices[*p]).collect();
                self.set.on(&rows, self.device)?
            }
        };
        let labels = self.set.labels().map(|labels| {
            let rows: Vec<i64> = places.iter().map(|p| labels[self.indices[*p]]).collect();
            Tensor::from_slice(&rows).to_device(self.device)
        });
        let index: Vec<i64> = places.iter().map(|p| *p as i64).collect();
        Ok(Batch {
            index: Some(Tensor::from_slice(&index).to_device(self.device)),
            ..Batch::new(x_start, Cond { label: labels, ..Cond::default() })
        })
    }
}

/// The numbers below `n` in the order of Fisher and Yates, by ChaCha8 from `seed`: the same for ever, on every machine.
pub fn permutation(n: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        // Multiply-shift of 64 random bits onto 0..=i: its bias is below n / 2^64.
        let j = ((u128::from(rng.next_u64()) * (i as u128 + 1)) >> 64) as usize;
        order.swap(i, j);
    }
    order
}
