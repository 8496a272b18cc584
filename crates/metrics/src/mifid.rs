//! The memorization-informed Fréchet distance.

use crate::estimate::mean;
use crate::products::largest_cosines;
use crate::real::{Directions, Real, Rows};
use crate::{Error, FrechetReference};
use ndarray::ArrayView2;

/// Which set's rows look for their nearest in the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MifidOrder {
    /// Each generated sample for its nearest training row: Kaggle's, and what the metric is meant to say.
    Generated,
    /// Each training row for its nearest generated sample: torchmetrics'.
    Train,
}

/// A memorization-informed Fréchet distance and what it is made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mifid {
    /// The Fréchet distance, divided by the cosine distance (plus 1e-14) where that is below 0.1.
    pub value: f64,
    /// The Fréchet distance.
    pub frechet_distance: f64,
    /// Mean over rows of the least `1 - |cos|`, before the threshold.
    pub cosine_distance: f64,
}

/// Cosine distances from here on count as 1.
const THRESHOLD: f64 = 0.1;

/// MiFID of features `[N, D]` and `[M, D]` where they are the Inception network's; Bai et al. 2021, Eq. 3: the Fréchet distance to
/// the training set, made worse where samples are nearly training rows.
///
/// Errors: a row of zeros, which has no cosine.
pub fn mifid<T: Real>(
    generated: ArrayView2<'_, T>,
    train: ArrayView2<'_, T>,
    order: MifidOrder,
) -> Result<Mifid, Error> {
    let x = Rows::new("generated", generated, train.ncols(), 2)?;
    let y = Rows::new("train", train, train.ncols(), 2)?;
    mifid_of_rows(&x, &y, &FrechetReference::of_rows("train", &y)?, order)
}

/// As [`mifid`], where what the Fréchet distance is taken to is prepared already.
pub(crate) fn mifid_of_rows<T: Real>(
    x: &Rows<'_, T>,
    y: &Rows<'_, T>,
    reference: &FrechetReference,
    order: MifidOrder,
) -> Result<Mifid, Error> {
    let frechet_distance = reference.distance_of_rows(x)?.value;
    let (x, y) = (Directions::new("generated", x)?, Directions::new("train", y)?);
    let cosines = match order {
        MifidOrder::Generated => largest_cosines(&x, &y, f64::abs),
        MifidOrder::Train => largest_cosines(&y, &x, f64::abs),
    };
    let cosine_distance = (1.0 - mean(&cosines)).max(0.0);
    let divisor = if cosine_distance < THRESHOLD { cosine_distance } else { 1.0 };
    Ok(Mifid { value: frechet_distance / (divisor + 1e-14), frechet_distance, cosine_distance })
}
