//! The nearest and the second-nearest distinct reference of every query.

use crate::neighbors::{Best, Blocks, each_tile, neighbors_in_tile};
use crate::points::{center, count_distinct, firsts};
use crate::{Error, Points, Real};
use ndarray::{Array1, ArrayView2, CowArray, Ix2};

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
    /// Of squared distances and indices.
    pub(crate) fn collect(found: impl Iterator<Item = [(f64, u32); 2]> + Clone) -> Self {
        let place = |which: usize| found.clone().map(|f| f[which].1 as usize).collect();
        let distance = |which: usize| found.clone().map(move |f| f[which].0.sqrt()).collect();
        Self {
            nearest: place(0),
            second: place(1),
            nearest_distance: distance(0),
            second_distance: distance(1),
        }
    }

    /// Whether each query is a copy: `d1 / d2 < ratio`, or `d1` is 0.
    pub fn memorized(&self, ratio: f64) -> Vec<bool> {
        let pairs = self.nearest_distance.iter().zip(&self.second_distance);
        pairs.map(|(d1, d2)| *d1 < ratio * d2 || *d1 == 0.0).collect()
    }
}

/// A reference set `[N, D]`, prepared once for many queries.
///
/// Of rows that are equal only the first counts. Otherwise a duplicate in the training set would be the second-nearest of
/// every copy of it, the ratio would be 1, and the copies would go unseen.
#[derive(Debug)]
pub struct References<'a, T: Real> {
    points: Points<'a, T>,
    /// For each row the first that equals it, where some are equal.
    firsts: Option<Vec<u32>>,
    center: Array1<f64>,
}

impl<'a, T: Real> References<'a, T> {
    /// At least two distinct rows, all finite.
    pub fn new(rows: impl Into<CowArray<'a, T, Ix2>>) -> Result<Self, Error> {
        let rows = rows.into();
        let (set, center, firsts) = ("references", center(rows.view()), firsts(rows.view()));
        at_least_two(set, count_distinct(firsts.as_deref(), rows.nrows()))?;
        Ok(Self { points: Points::new(set, rows, center.view())?, firsts, center })
    }

    /// As given.
    pub fn rows(&self) -> ArrayView2<'_, T> {
        self.points.rows()
    }

    /// The two nearest references of each row of `queries` `[M, D]`: exact, ties to the lower index.
    pub fn nearest(&self, queries: ArrayView2<'_, T>) -> Result<NearestPairs, Error> {
        let queries = Points::new("queries", queries, self.center.view())?;
        Ok(nearest_distinct(&queries, &self.points, self.firsts.as_deref()))
    }
}

/// The two nearest references that differ, where `firsts` says which are equal.
pub(crate) fn nearest_distinct<T: Real>(
    queries: &Points<'_, T>,
    references: &Points<'_, T>,
    firsts: Option<&[u32]>,
) -> NearestPairs {
    let nearest = Blocks::new(queries.len(), || Best::new(2));
    each_tile(queries, references, |tile, found| {
        let index = |j: usize| firsts.map_or(j, |firsts| firsts[j] as usize);
        neighbors_in_tile(tile, found, &nearest, queries, references, index);
    });
    let found: Vec<_> = nearest.into_iter().map(|best| [best.found()[0], best.found()[1]]).collect();
    NearestPairs::collect(found.into_iter())
}

pub(crate) fn at_least_two(set: &'static str, found: usize) -> Result<(), Error> {
    if found < 2 { Err(Error::TooFew { set, found, needed: 2 }) } else { Ok(()) }
}
