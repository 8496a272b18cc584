//! The percentile bootstrap of a mean.

use crate::{Error, Interval};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Up to so many values every resample is counted, `10^10` of them in 92,378 different means; beyond, some
/// are drawn.
pub(crate) const EXACT: usize = 10;
/// Fewer draws would tell an end of the interval by fewer than 25 of them.
const FEWEST: usize = 1000;

/// How the bootstrap draws where there are more than 10 pairs; up to 10 it counts every resample and draws
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Resamples, at least 1000.
    pub resamples: usize,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { resamples: 10_000, seed: 0 }
    }
}

impl Options {
    pub(crate) fn check(self) -> Result<(), Error> {
        if self.resamples < FEWEST {
            return Err(Error::Setting { setting: "resamples", found: self.resamples, needed: FEWEST });
        }
        Ok(())
    }
}

/// A mean, and how many resamples have it.
type Weighed = (f64, u64);

/// From the 2.5th to the 97.5th percentile of the means of resamples; Efron 1979. `values` is not empty.
pub(crate) fn percentile_interval(values: &[f64], options: Options) -> Interval {
    let mut means = if values.len() <= EXACT { every(values) } else { drawn(values, options) };
    means.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    let all = means.iter().map(|m| m.1).sum();
    Interval { lower: end(means.iter(), all), upper: end(means.iter().rev(), all) }
}

/// The first mean at which a fortieth (2.5 %) of all resamples is reached.
fn end<'a>(means: impl Iterator<Item = &'a Weighed>, all: u64) -> f64 {
    let mut seen = 0;
    let reached = |(mean, count): &Weighed| {
        seen += count;
        (40 * seen >= all).then_some(*mean)
    };
    { means }.find_map(reached).unwrap_or_default()
}

/// All `n^n` resamples: how often each value can be taken, and in how many orders.
fn every(values: &[f64]) -> Vec<Weighed> {
    let mut means = Vec::new();
    take(values, values.len() as u64, (0.0, 1), &mut |(sum, count)| {
        means.push((sum / values.len() as f64, count));
    });
    means
}

fn take(values: &[f64], left: u64, (sum, count): Weighed, found: &mut impl FnMut(Weighed)) {
    let Some((value, others)) = values.split_first() else { return };
    if others.is_empty() || left == 0 {
        return found((sum + left as f64 * value, count));
    }
    let mut places = 1; // ways to place `k` of this value among those left
    for k in 0..=left {
        take(others, left - k, (sum + k as f64 * value, count * places), found);
        places = places * (left - k) / (k + 1);
    }
}

fn drawn(values: &[f64], options: Options) -> Vec<Weighed> {
    let (n, mut rng) = (values.len(), ChaCha8Rng::seed_from_u64(options.seed));
    // Multiply-shift of 32 random bits, whose bias is below `n / 2^32`.
    let mut draw = || values[((u64::from(rng.next_u32()) * n as u64) >> 32) as usize];
    (0..options.resamples).map(|_| ((0..n).map(|_| draw()).sum::<f64>() / n as f64, 1)).collect()
}
