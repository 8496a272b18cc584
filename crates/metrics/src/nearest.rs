//! The nearest and the second-nearest distinct reference of every query.

use crate::neighbors::{Cross, Wanted, cross};
use crate::points::{center, distinct};
use crate::{Error, Points, Real};
use ndarray::{Array1, ArrayView1, ArrayView2, Axis};

/// A sample is a copy if it is nearer than this share of the distance to the second-nearest training image.
///
/// Yoon et al. 2023; Gu et al. 2023, Eq. 5.
pub const MEMORIZED_RATIO: f64 = 1.0 / 3.0;

/// For every query its nearest reference, and the nearest of those that differ from it. Euclidean distances, f64.
#[derive(Debug, Clone, PartialEq)]
pub struct NearestPairs {
    /// Index of the nearest reference.
    pub nearest: Vec<usize>,
    /// Index of the second-nearest.
    pub second: Vec<usize>,
    /// Distance to the nearest.
    pub nearest_distance: Vec<f64>,
    /// Distance to the second-nearest.
    pub second_distance: Vec<f64>,
}

impl NearestPairs {
    /// Of squared distances and places among the references, where `index` says which references those are.
    pub(crate) fn collect(
        found: impl Iterator<Item = [(f64, u32); 2]> + Clone,
        index: impl Fn(u32) -> usize,
    ) -> Self {
        let place = |which: usize| found.clone().map(|f| index(f[which].1)).collect();
        let distance = |which: usize| found.clone().map(move |f| f[which].0.sqrt()).collect();
        Self {
            nearest: place(0),
            second: place(1),
            nearest_distance: distance(0),
            second_distance: distance(1),
        }
    }

    /// Whether each query is a copy: `d1 / d2 < ratio`.
    pub fn memorized(&self, ratio: f64) -> Vec<bool> {
        let pairs = self.nearest_distance.iter().zip(&self.second_distance);
        pairs.map(|(d1, d2)| *d1 < ratio * d2).collect()
    }
}

/// A reference set `[N, D]`, prepared once for many queries.
///
/// Of rows that are equal only the first counts. Otherwise a duplicate in the training set would be the second-nearest of
/// every copy of it, the ratio would be 1, and the copies would go unseen.
#[derive(Debug)]
pub struct References<'a, T: Real> {
    /// One row per distinct content.
    points: Points<'a, T>,
    /// The index of each distinct row in the set as given.
    index: Vec<usize>,
    center: Array1<f64>,
}

impl<'a, T: Real> References<'a, T> {
    /// At least two distinct rows, all finite.
    pub fn new(rows: ArrayView2<'a, T>) -> Result<Self, Error> {
        let (set, center, index) = ("references", center(rows), distinct(rows));
        if index.len() < rows.nrows() {
            return References::of_distinct(set, rows, index, center.view());
        }
        at_least_two(set, index.len())?;
        Ok(Self { points: Points::new(set, rows, center.view())?, index, center })
    }

    /// The rows of `index`, which differ, with a centre that is shared with other sets.
    pub(crate) fn of_distinct(
        set: &'static str,
        rows: ArrayView2<'_, T>,
        index: Vec<usize>,
        center: ArrayView1<'_, f64>,
    ) -> Result<Self, Error> {
        at_least_two(set, index.len())?;
        let points = Points::new(set, rows.select(Axis(0), &index), center)?;
        Ok(Self { points, index, center: center.to_owned() })
    }

    /// The two nearest references of each row of `queries` `[M, D]`: exact, ties to the lower index.
    pub fn nearest(&self, queries: ArrayView2<'_, T>) -> Result<NearestPairs, Error> {
        Ok(self.nearest_of(&Points::new("queries", queries, self.center.view())?))
    }

    /// Of queries with the same centre.
    pub(crate) fn nearest_of(&self, queries: &Points<'_, T>) -> NearestPairs {
        let Cross { nearest, .. } = cross(queries, &self.points, Wanted { k: 2, ..Wanted::default() });
        NearestPairs::collect(nearest.rows().map(|row| [row[0], row[1]]), |j| self.index[j as usize])
    }
}

fn at_least_two(set: &'static str, found: usize) -> Result<(), Error> {
    if found < 2 { Err(Error::TooFew { set, found, needed: 2 }) } else { Ok(()) }
}
