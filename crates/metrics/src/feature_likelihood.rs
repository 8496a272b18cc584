//! Feature likelihood divergence: how likely held-out data are under Gaussians around the samples.

use crate::data_copying::ThreeSets;
use crate::draws::{generator, without_replacement};
use crate::estimate::{NORMAL, influence_error, mean, variance};
use crate::feature_mixture::Mixture;
use crate::real::{Real, Rows};
use crate::{Error, Interval};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// More generated samples than these are drawn from.
const MOST_CENTERS: usize = 10_000;

/// A feature likelihood divergence, its train-test gap, and what they are made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeatureLikelihood {
    /// 100 times the held-out set's mean negative log-likelihood per dimension under the mixture, minus the baseline: 0 where
    /// samples are as good as training data, higher where they are worse, less varied, or copies. The 95 % interval is that
    /// of the mean over the held-out rows, with mixture and baseline as fitted.
    pub divergence: Interval,
    /// 100 times the training set's mean negative log-likelihood per dimension minus the held-out set's: far below 0 where
    /// samples are nearer to training data. A little below 0 is no sign, since the mixture was fitted to training data.
    pub gap: Interval,
    /// What the held-out rows' mean negative log-likelihood per dimension is under one half of the training set, fitted to
    /// the other half: give it to comparisons with the same two sets.
    pub baseline_nll: f64,
    /// Features that are constant in the held-out set and were left out, since they have no scale.
    pub left_out: usize,
}

/// FLD of Jiralerspong et al. 2023, with the settings of its authors' code: features are standardized by the
/// held-out set; every sample (at most 10,000, drawn by `seed`) is the center of an isotropic Gaussian; their variances are
/// fitted to the training set by Adam; then the held-out set's likelihood is taken.
///
/// `baseline_nll` is that of an earlier call with the same training and held-out sets (and as many samples); without it
/// the training set's halves, drawn by `seed`, are fitted as well. Time is `N * M` a pass of the fit, at most 50; no `[N, M]`
/// matrix of more than 128 MB is kept.
///
/// Errors: fewer than two training or held-out rows, features that are all constant.
pub fn feature_likelihood<T: Real>(
    sets: ThreeSets<'_, T>,
    baseline_nll: Option<f64>,
    seed: u64,
) -> Result<FeatureLikelihood, Error> {
    match baseline_nll {
        Some(nll) => likelihood_beside(sets, &Baseline::Given(nll), seed),
        None => likelihood_beside(sets, &Baseline::Fitted(Baselines::default()), seed),
    }
}

/// The negative log-likelihoods of the held-out rows under one half of the training set, by the number of Gaussians.
pub(crate) type Baselines = Mutex<BTreeMap<usize, Vec<f64>>>;

/// What samples are compared with.
#[derive(Debug)]
pub(crate) enum Baseline {
    /// A mean that was computed before.
    Given(f64),
    /// Halves of the training set; those that were fitted are kept. For the same training and held-out rows and seed.
    Fitted(Baselines),
}

pub(crate) fn likelihood_beside<T: Real>(
    sets: ThreeSets<'_, T>,
    baseline: &Baseline,
    seed: u64,
) -> Result<FeatureLikelihood, Error> {
    let width = sets.train.ncols();
    let generated = Rows::new("generated", sets.generated, width, 1)?;
    let train = Rows::new("train", sets.train, width, 2)?;
    let held_out = Rows::new("held_out", sets.held_out, width, 2)?;
    let scale = Standardization::of(&held_out);
    let size = generated.len().min(MOST_CENTERS);
    let centers = match generated.len() {
        n if n > size => {
            scale.apply(&generated.select(&without_replacement(&mut generator(seed, 0), n, size)))
        }
        _ => scale.apply(&generated),
    };
    let (train, test) = (scale.apply(&train), scale.apply(&held_out));

    let order = without_replacement(&mut generator(seed, 1), train.len(), train.len());
    let model = Mixture::fit(centers, &train.select(&order));
    let (of_test, of_train) = (model.nll(&test), model.nll(&train));
    let (baseline_nll, differences) = match baseline {
        Baseline::Given(nll) => (*nll, of_test.iter().map(|x| x - nll).collect()),
        Baseline::Fitted(kept) => {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            let of_halves = kept.entry(size).or_insert_with(|| {
                let order = without_replacement(&mut generator(seed, 2), train.len(), train.len());
                let [centers, rest] = halves(&order, size);
                Mixture::fit(train.select(centers), &train.select(rest)).nll(&test)
            });
            let differences: Vec<f64> = of_test.iter().zip(&*of_halves).map(|(a, b)| a - b).collect();
            (mean(of_halves), differences)
        }
    };
    let of_mean = |v: &[f64]| variance(v, 1) / v.len() as f64;
    let gap_error = (of_mean(&of_test) + of_mean(&of_train)).sqrt();
    Ok(FeatureLikelihood {
        divergence: Interval::around(
            100.0 * mean(&differences),
            100.0 * influence_error(&differences),
            NORMAL,
        ),
        gap: Interval::around(100.0 * (mean(&of_train) - mean(&of_test)), 100.0 * gap_error, NORMAL),
        baseline_nll,
        left_out: width - scale.columns.len(),
    })
}

/// At most `size` rows of one half, and all of the other.
pub(crate) fn halves(order: &[usize], size: usize) -> [&[usize]; 2] {
    let (one, other) = order.split_at(order.len() / 2);
    [&one[..size.min(one.len())], other]
}

/// Mean and standard deviation of the features that vary.
struct Standardization {
    columns: Vec<usize>,
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Standardization {
    /// Of rows that are not all equal, so that a column is left.
    fn of<T: Real>(rows: &Rows<'_, T>) -> Self {
        let (mut columns, mut means, mut stds) = (Vec::new(), Vec::new(), Vec::new());
        for j in 0..rows.width {
            if rows.iter().any(|row| row[j] != rows.row(0)[j]) {
                let column: Vec<f64> = rows.iter().map(|row| row[j].into()).collect();
                columns.push(j);
                means.push(mean(&column));
                stds.push(variance(&column, 1).sqrt());
            }
        }
        Self { columns, mean: means, std: stds }
    }

    fn apply<T: Real>(&self, rows: &Rows<'_, T>) -> Rows<'static, f64> {
        let one = |row: &[T]| -> Vec<f64> {
            let each = self.columns.iter().zip(self.mean.iter().zip(&self.std));
            each.map(|(j, (mean, std))| (row[*j].into() - mean) / std).collect()
        };
        Rows::owned(rows.iter().flat_map(one).collect(), self.columns.len())
    }
}
