//! Intervals of means and medians.

use crate::draws::{below, generator};
use rayon::prelude::*;

/// A number and its 95 % interval, whose ends are NaN where it is not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
}

/// Resamples of a bootstrap.
const RESAMPLES: usize = 1000;

/// Percentile bootstrap of the mean, 1000 resamples; Efron 1979. The order of the values does not matter.
///
/// Where all values are equal the interval is a point. That is what this bootstrap says, not what is known: with no
/// success among `n`, shares up to about `3 / n` are compatible with the data (the "rule of three").
///
/// An empty slice gives NaN.
pub fn bootstrap_mean(values: &[f64], seed: u64) -> Interval {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    let mean = |sum: f64| sum / n as f64;
    let value = mean(sorted.iter().sum());
    if n == 0 {
        return Interval { value, lower: value, upper: value };
    }
    let generator = generator(seed, 0);
    let resample = |i: usize| {
        let mut rng = generator.clone();
        // A draw takes one word: these are the draws of one resample after the other.
        rng.set_word_pos(i as u128 * n as u128);
        mean((0..n).map(|_| sorted[below(&mut rng, n)]).sum())
    };
    let mut means: Vec<f64> = (0..RESAMPLES).into_par_iter().map(resample).collect();
    means.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40; // 2.5 %
    Interval { value, lower: means[tail], upper: means[RESAMPLES - 1 - tail] }
}

/// The median and the 95 % interval of its order statistics: ranks `n / 2 -+ 0.98 sqrt(n)`, the normal approximation of the
/// binomial; Conover 1999, Section 3.2. Free of the distribution, and right where values are infinite.
///
/// An empty vector gives NaN.
pub fn median(mut values: Vec<f64>) -> Interval {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    if n == 0 {
        return Interval { value: f64::NAN, lower: f64::NAN, upper: f64::NAN };
    }
    let (low, high) = (values[(n - 1) / 2], values[n / 2]);
    let value = if low == high { low } else { (low + high) / 2.0 };
    let half = 0.98 * (n as f64).sqrt();
    let rank = |r: f64| values[(r.max(0.0) as usize).min(n - 1)];
    let middle = n as f64 / 2.0;
    Interval { value, lower: rank((middle - half).floor()), upper: rank((middle + half).ceil()) }
}
