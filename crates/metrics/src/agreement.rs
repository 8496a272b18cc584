//! Do two models that were trained on different halves of the data make the same images from the same noise?

use crate::products::largest_cosines;
use crate::real::{Directions, Real, Rows};
use crate::{Error, Interval, bootstrap_mean};
use ndarray::ArrayView2;

/// A model's samples `[N, D]` and the half of the training set that it saw `[M, D]`, as features.
#[derive(Debug, Clone, Copy)]
pub struct Half<'a, T> {
    /// Sample `i` of both models is from the same noise.
    pub generated: ArrayView2<'a, T>,
    /// Disjoint from the other half.
    pub train: ArrayView2<'a, T>,
}

/// How alike two models' samples are, beside how like they are to what each was trained on.
///
/// Two models that generalize agree with each other more than with their data; two that memorize agree with their own
/// half alone (Kadkhodaie et al. 2024, section 2).
#[derive(Debug, Clone, PartialEq)]
pub struct Agreement {
    /// Cosine of each pair of samples from one noise.
    pub between_models: Vec<f64>,
    /// Of each sample, first model's first, the cosine to the nearest row of the half that its model saw.
    pub to_own_half: Vec<f64>,
    /// Mean of `between_models`; a percentile bootstrap, as are all intervals here.
    pub mean_between_models: Interval,
    /// Mean of `to_own_half`.
    pub mean_to_own_half: Interval,
    /// Share of pairs above the threshold: the reproducibility score of Zhang et al. 2024.
    pub reproducibility: Interval,
    /// Share of samples whose nearest row of their half is not above the threshold: the generalization score of Zhang et al.
    /// 2024.
    pub generalization: Interval,
}

/// Compares two models on disjoint halves; 0.6 is the threshold of Zhang et al. 2024 for SSCD features.
///
/// Errors: other numbers of samples, a row of zeros, a threshold that no
/// cosine can be on both sides of.
pub fn agreement<T: Real>(
    first: Half<'_, T>,
    second: Half<'_, T>,
    threshold: f64,
    seed: u64,
) -> Result<Agreement, Error> {
    if threshold.is_nan() || threshold.abs() >= 1.0 {
        let reason = format!("{threshold}, where a cosine between -1 and 1 is needed");
        return Err(Error::Setting { setting: "threshold", reason });
    }
    let width = first.train.ncols();
    let rows = |set, rows| Rows::new(set, rows, width, 1);
    let (a, b) = (rows("first generated", first.generated)?, rows("second generated", second.generated)?);
    let (a_train, b_train) = (rows("first train", first.train)?, rows("second train", second.train)?);
    let (a, b) = (Directions::new("first generated", &a)?, Directions::new("second generated", &b)?);
    let a_train = Directions::new("first train", &a_train)?;
    let b_train = Directions::new("second train", &b_train)?;
    if a.rows.len() != b.rows.len() {
        let reason = format!("{} and {}, where both models need as many", a.rows.len(), b.rows.len());
        return Err(Error::Setting { setting: "samples", reason });
    }
    let cosine = |i: usize| {
        let (x, y) = (a.units(i, i + 1), b.units(i, i + 1));
        x.col_as_slice(0).iter().zip(y.col_as_slice(0)).map(|(x, y)| x * y).sum::<f64>()
    };
    let between_models: Vec<f64> = (0..a.rows.len()).map(cosine).collect();
    let mut to_own_half = largest_cosines(&a, &a_train, |cosine| cosine);
    to_own_half.extend(largest_cosines(&b, &b_train, |cosine| cosine));
    let share = |values: &[f64], counts: &dyn Fn(f64) -> bool| {
        let shares: Vec<f64> = values.iter().map(|v| f64::from(u8::from(counts(*v)))).collect();
        bootstrap_mean(&shares, seed)
    };
    Ok(Agreement {
        mean_between_models: bootstrap_mean(&between_models, seed),
        mean_to_own_half: bootstrap_mean(&to_own_half, seed),
        reproducibility: share(&between_models, &|v| v > threshold),
        generalization: share(&to_own_half, &|v| v <= threshold),
        between_models,
        to_own_half,
    })
}
