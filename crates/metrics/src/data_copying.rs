//! The data-copying test: are samples nearer to the training set than held-out data are?

use crate::clusters::Cells;
use crate::estimate::{NORMAL, variance};
use crate::neighbors::nearest_distances;
use crate::points::center;
use crate::real::{Real, Rows};
use crate::{Error, Interval, Points};
use ndarray::ArrayView2;

/// The cell of every row of three sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellLabels {
    /// Of each generated sample, in `0..cells`.
    pub generated: Vec<usize>,
    /// Of each training row.
    pub train: Vec<usize>,
    /// Of each held-out row.
    pub held_out: Vec<usize>,
}

/// Generated samples, training rows and held-out rows, `[M, D]`, `[N, D]` and `[P, D]`.
#[derive(Debug, Clone, Copy)]
pub struct ThreeSets<'a, T> {
    /// The model's.
    pub generated: ArrayView2<'a, T>,
    /// What it was trained on.
    pub train: ArrayView2<'a, T>,
    /// Of the same source, not trained on.
    pub held_out: ArrayView2<'a, T>,
}

/// `C_T` and what it is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct DataCopying {
    /// Far below 0: samples are nearer to training rows than held-out rows are (copying). Far above: farther (underfitting).
    /// In standard deviations of a rank test; the 95 % interval is from the variance of its placements.
    pub interval: Interval,
    /// The statistic of each cell; `None` where too few samples fall into it.
    pub cells: Vec<Option<f64>>,
}

/// `C_T` of Meehan, Chaudhuri and Dasgupta 2020, section 3.1, in the cells of k-means on the training set (see [`Cells`]).
///
/// In each cell the distances of samples and of held-out rows to the cell's nearest training row are compared by the
/// Mann-Whitney statistic; cells are weighted by their held-out rows. A cell whose share of samples is not above
/// `20 / M` is left out. Errors: a cell without training or held-out rows, or no cell with enough samples.
pub fn data_copying<T: Real>(sets: ThreeSets<'_, T>, cells: usize, seed: u64) -> Result<DataCopying, Error> {
    data_copying_by(sets, &TrainCells::fit(sets.train, cells, seed)?)
}

/// Cells of a training set, and the cell of each of its rows.
#[derive(Debug)]
pub(crate) struct TrainCells {
    cells: Cells,
    labels: Vec<usize>,
}

impl TrainCells {
    pub(crate) fn fit<T: Real>(train: ArrayView2<'_, T>, cells: usize, seed: u64) -> Result<Self, Error> {
        let cells = Cells::fit(train, cells, seed)?;
        Ok(Self { labels: cells.assign("train", train)?, cells })
    }
}

/// As [`data_copying`], where the training set has its cells already.
pub(crate) fn data_copying_by<T: Real>(
    sets: ThreeSets<'_, T>,
    fitted: &TrainCells,
) -> Result<DataCopying, Error> {
    let labels = CellLabels {
        generated: fitted.cells.assign("generated", sets.generated)?,
        train: fitted.labels.clone(),
        held_out: fitted.cells.assign("held_out", sets.held_out)?,
    };
    data_copying_in(sets, &labels, 20.0 / sets.generated.nrows() as f64)
}

/// As [`data_copying`] in cells that are given; a cell counts where its share of samples is above `threshold`.
pub fn data_copying_in<T: Real>(
    sets: ThreeSets<'_, T>,
    labels: &CellLabels,
    threshold: f64,
) -> Result<DataCopying, Error> {
    let width = sets.train.ncols();
    let set = |name, rows, labels: &[usize]| {
        let rows = Rows::new(name, rows, width, 1)?;
        if rows.len() != labels.len() {
            let reason = format!("{}, where {name} has {} rows", labels.len(), rows.len());
            return Err(Error::Setting { setting: "cell labels", reason });
        }
        Ok(rows)
    };
    let generated = set("generated", sets.generated, &labels.generated)?;
    let train = set("train", sets.train, &labels.train)?;
    let held_out = set("held_out", sets.held_out, &labels.held_out)?;
    let all = labels.generated.iter().chain(&labels.train).chain(&labels.held_out);
    let count = all.max().map_or(0, |last| last + 1);
    let (mut cells, mut sum, mut weight, mut spread) = (Vec::new(), 0.0, 0.0, 0.0);
    for cell in 0..count {
        let members =
            |labels: &[usize]| -> Vec<usize> { (0..labels.len()).filter(|i| labels[*i] == cell).collect() };
        let of_test = members(&labels.held_out);
        let of_train = members(&labels.train);
        for (set, rows) in [("train", &of_train), ("held_out", &of_test)] {
            if rows.is_empty() {
                return Err(Error::EmptyCell { set, cell });
            }
        }
        let of_model = members(&labels.generated);
        if of_model.len() as f64 / generated.len() as f64 <= threshold {
            cells.push(None);
            continue;
        }
        let references = train.select(&of_train);
        let center = center(references.view());
        let references = Points::prepare(references.view(), center.view());
        let far =
            |rows: &Rows<'_, T>, which: &[usize]| nearest_distances(rows, which, &references, center.view());
        let (z, variance) = rank_statistic(&far(&generated, &of_model), &far(&held_out, &of_test));
        let share = of_test.len() as f64 / held_out.len() as f64;
        cells.push(Some(z));
        sum += share * z;
        weight += share;
        spread += share * share * variance;
    }
    if weight == 0.0 {
        let reason = format!("{threshold}, which no cell's share of samples is above");
        return Err(Error::Setting { setting: "threshold of a cell", reason });
    }
    let interval = Interval::around(sum / weight, spread.sqrt() / weight, NORMAL);
    Ok(DataCopying { interval, cells })
}

/// The normal form of the Mann-Whitney statistic (how often a sample is farther than a held-out row, ties half; without a
/// correction for ties in its scale), and its variance by the placements of each set in the other (DeLong, DeLong and
/// Clarke-Pearson 1988, Eq. 5).
fn rank_statistic(model: &[f64], test: &[f64]) -> (f64, f64) {
    let (m, n) = (model.len() as f64, test.len() as f64);
    let of_model = placements(model, test);
    // A share of held-out rows that are farther is as variable as that of those that are nearer.
    let of_test = placements(test, model);
    let u: f64 = of_model.iter().sum::<f64>() * n;
    let scale = (n * m * (n + m + 1.0) / 12.0).sqrt();
    let part = |p: &[f64]| if p.len() > 1 { variance(p, 1) / p.len() as f64 } else { 0.25 };
    let variance = (part(&of_model) + part(&of_test)) * (n * m / scale).powi(2);
    ((u - (n * m / 2.0 - 0.5)) / scale, variance)
}

/// For each of `values` the share of `others` below it, ties half.
fn placements(values: &[f64], others: &[f64]) -> Vec<f64> {
    let mut others = others.to_vec();
    others.sort_by(f64::total_cmp);
    let place = |v: &f64| {
        let below = others.partition_point(|o| o < v);
        let not_above = others.partition_point(|o| o <= v);
        (below + not_above) as f64 / 2.0 / others.len() as f64
    };
    values.iter().map(place).collect()
}
