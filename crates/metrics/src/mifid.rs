//! The memorization-informed Fréchet distance.

use crate::estimate::mean;
use crate::frechet_interval::{Parts, without_group};
use crate::products::largest_cosines;
use crate::real::{Directions, Real, Rows};
use crate::{Error, FrechetReference, Interval};
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
    /// 95 %, about the expected value of as many samples: by what each sample, or group of them, has to do with both
    /// distances, as of a Fréchet distance. Its ends are NaN with [`MifidOrder::Train`], where a sample may be the nearest of
    /// many rows or of none.
    pub interval: Interval,
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
    mifid_of_rows(&x, &y, &FrechetReference::of_rows("train", &y)?, (order, true))
}

/// As [`mifid`], where what the Fréchet distance is taken to is prepared already; the interval, which costs more than the
/// value, only where it is asked for.
pub(crate) fn mifid_of_rows<T: Real>(
    x: &Rows<'_, T>,
    y: &Rows<'_, T>,
    reference: &FrechetReference,
    (order, with_interval): (MifidOrder, bool),
) -> Result<Mifid, Error> {
    let (of_x, of_y) = (Directions::new("generated", x)?, Directions::new("train", y)?);
    let cosines = match order {
        MifidOrder::Generated => largest_cosines(&of_x, &of_y, f64::abs),
        MifidOrder::Train => largest_cosines(&of_y, &of_x, f64::abs),
    };
    let parts = match with_interval && order == MifidOrder::Generated && x.len() > 2 {
        true => Some(reference.parts_of(x)?),
        false => None,
    };
    let frechet_distance = match &parts {
        Some((distance, _)) => distance.value,
        None => reference.distance_of_rows(x)?.value,
    };
    let cosine_distance = (1.0 - mean(&cosines)).max(0.0);
    let divisor = divisor(cosine_distance);
    let value = frechet_distance / divisor;
    let interval = parts.map_or(Interval::unknown(value), |(_, parts)| {
        ratio(parts, &cosines, frechet_distance, cosine_distance).interval(value).at_least(0.0)
    });
    Ok(Mifid { value, frechet_distance, cosine_distance, interval })
}

fn divisor(cosine_distance: f64) -> f64 {
    (if cosine_distance < THRESHOLD { cosine_distance } else { 1.0 }) + 1e-14
}

/// Parts of the ratio from those of the Fréchet distance and the cosines of the samples.
fn ratio(parts: Parts, cosines: &[f64], frechet_distance: f64, cosine_distance: f64) -> Parts {
    let whole = divisor(cosine_distance);
    match parts {
        Parts::Influences(influence) => {
            let counts = if cosine_distance < THRESHOLD { frechet_distance / whole } else { 0.0 };
            let both = influence.iter().zip(cosines);
            Parts::Influences(both.map(|(f, cosine)| (f - counts * (1.0 - cosine)) / whole).collect())
        }
        Parts::WithoutGroup { rows, values } => {
            let of = |(group, distance): (usize, &f64)| {
                let kept: Vec<f64> = without_group(rows, group).into_iter().map(|i| cosines[i]).collect();
                distance / divisor((1.0 - mean(&kept)).max(0.0))
            };
            Parts::WithoutGroup { rows, values: values.iter().enumerate().map(of).collect() }
        }
    }
}
