//! The inception score.

use crate::draws::{generator, without_replacement};
use crate::estimate::{mean, variance};
use crate::real::{Real, Rows};
use crate::{Error, Interval};
use heldout_statistics::student_quantile;
use ndarray::ArrayView2;

/// How far a row of probabilities may be from a sum of 1.
const SLACK: f64 = 1e-3;

/// The score of every split of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct InceptionScore {
    /// One a split, in `[1, K]` for `K` classes.
    pub splits: Vec<f64>,
}

impl InceptionScore {
    /// From a classifier's logits `[N, K]`: `exp(mean_x KL(p(y|x) || p(y)))` of each of `splits` parts of one size but for
    /// rounding (`i N / splits` to `(i + 1) N / splits`); Salimans et al. 2016, section 4. Softmax and sums are in f64.
    ///
    /// `shuffle` puts the samples in random order first, by a seed. Errors: no split, more splits than rows.
    pub fn of_logits<T: Real>(
        logits: ArrayView2<'_, T>,
        splits: usize,
        shuffle: Option<u64>,
    ) -> Result<Self, Error> {
        let rows = Rows::new("logits", logits, logits.ncols(), 2)?;
        Self::of_log_probabilities(rows.iter().map(log_softmax).collect(), splits, shuffle)
    }

    /// As [`InceptionScore::of_logits`], from probabilities `[N, K]` whose rows sum to 1 within a thousandth.
    pub fn of_probabilities<T: Real>(
        probabilities: ArrayView2<'_, T>,
        splits: usize,
        shuffle: Option<u64>,
    ) -> Result<Self, Error> {
        let set = "probabilities";
        let rows = Rows::new(set, probabilities, probabilities.ncols(), 2)?.to_f64();
        let is_one =
            |row: &[f64]| row.iter().all(|p| *p >= 0.0) && (row.iter().sum::<f64>() - 1.0).abs() < SLACK;
        if let Some(row) = rows.iter().position(|row| !is_one(row)) {
            return Err(Error::NoDistribution { set, row });
        }
        let logs = rows.iter().map(|row| row.iter().map(|p| p.ln()).collect()).collect();
        Self::of_log_probabilities(logs, splits, shuffle)
    }

    fn of_log_probabilities(rows: Vec<Vec<f64>>, splits: usize, shuffle: Option<u64>) -> Result<Self, Error> {
        let n = rows.len();
        if splits == 0 || splits > n {
            let reason = format!("{splits}, where 1 to {n} (the number of rows) are possible");
            return Err(Error::Setting { setting: "splits", reason });
        }
        let order = match shuffle {
            Some(seed) => without_replacement(&mut generator(seed, 0), n, n),
            None => (0..n).collect(),
        };
        let part = |i: usize| &order[i * n / splits..(i + 1) * n / splits];
        Ok(Self { splits: (0..splits).map(|i| score(&rows, part(i))).collect() })
    }

    /// Mean over the splits, as it is reported.
    pub fn mean(&self) -> f64 {
        mean(&self.splits)
    }

    /// Standard deviation over the splits, divided by their number, as it is reported.
    pub fn std(&self) -> f64 {
        variance(&self.splits, 0).sqrt()
    }

    /// The mean and its 95 % interval from the spread of the splits, NaN of one: about the expected score of a split of this
    /// size, since few samples score lower.
    pub fn interval(&self) -> Interval {
        let n = self.splits.len();
        let error = (variance(&self.splits, 1) / n as f64).sqrt();
        Interval::around(self.mean(), error, student_quantile((n - 1).max(1)))
    }
}

fn log_softmax<T: Real>(row: &[T]) -> Vec<f64> {
    let row: Vec<f64> = row.iter().map(|x| (*x).into()).collect();
    let largest = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = largest + row.iter().map(|x| (x - largest).exp()).sum::<f64>().ln();
    row.into_iter().map(|x| x - log_sum).collect()
}

/// `exp` of the mean divergence of the rows from their mean distribution.
fn score(rows: &[Vec<f64>], part: &[usize]) -> f64 {
    let n = part.len() as f64;
    let mut marginal = vec![0.0; rows[0].len()];
    for i in part {
        marginal.iter_mut().zip(&rows[*i]).for_each(|(m, log)| *m += log.exp() / n);
    }
    let log_marginal: Vec<f64> = marginal.into_iter().map(f64::ln).collect();
    // A class of probability 0 adds nothing, whatever its logarithm.
    let term = |(log, marginal): (&f64, &f64)| {
        if *log > f64::NEG_INFINITY { log.exp() * (log - marginal) } else { 0.0 }
    };
    let divergence = |i: &usize| rows[*i].iter().zip(&log_marginal).map(term).sum::<f64>();
    (part.iter().map(divergence).sum::<f64>() / n).exp()
}
