//! The nearest and the second-nearest distinct reference of every query.

use crate::Error;
use crate::distances::{approximate, check, error_bound, exact, shortlist, squared_norms, two_smallest};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use std::collections::HashSet;

/// A sample is a copy if it is nearer than this share of the distance to the second-nearest training image.
///
/// Yoon et al. 2023; Gu et al. 2023, Eq. 5.
pub const MEMORIZED_RATIO: f64 = 1.0 / 3.0;

/// Rows of one matrix product: bounds memory at `rows * N` numbers a thread.
const BLOCK: usize = 64;

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
    pub(crate) fn collect(found: Vec<[(f64, usize); 2]>) -> Self {
        Self {
            nearest: found.iter().map(|[n, _]| n.1).collect(),
            second: found.iter().map(|[_, s]| s.1).collect(),
            nearest_distance: found.iter().map(|[n, _]| n.0).collect(),
            second_distance: found.iter().map(|[_, s]| s.0).collect(),
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
/// Of rows that are equal to the last bit only the first counts. Otherwise a duplicate in the training set would be the
/// second-nearest of every copy of it, the ratio would be 1, and the copies would go unseen.
#[derive(Debug)]
pub struct References {
    /// As given, one row per distinct content.
    pub(crate) rows: Array2<f32>,
    /// The index of each distinct row in the set as given.
    pub(crate) index: Vec<usize>,
    /// Subtracted from both sides before the products, so that an offset costs no digits.
    pub(crate) mean: Array1<f32>,
    pub(crate) centered: Array2<f32>,
    pub(crate) norms: Array1<f32>,
    pub(crate) largest_norm: f32,
}

impl References {
    /// At least two distinct rows, all finite.
    pub fn new(rows: ArrayView2<'_, f32>) -> Result<Self, Error> {
        check("references", rows, rows.ncols())?;
        let bits = |i: &usize| rows.row(*i).iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
        let mut seen = HashSet::new();
        let index: Vec<usize> = (0..rows.nrows()).filter(|i| seen.insert(bits(i))).collect();
        if index.len() < 2 {
            return Err(Error::TooFew { set: "references", found: index.len(), needed: 2 });
        }
        let rows = rows.select(Axis(0), &index);
        let mean = rows.mean_axis(Axis(0)).unwrap_or_default();
        let centered = &rows - &mean;
        let norms = squared_norms(centered.view());
        let largest_norm = norms.iter().copied().fold(0.0, f32::max);
        Ok(Self { rows, index, mean, centered, norms, largest_norm })
    }

    /// The two nearest references of each row of `queries` `[M, D]`: exact, ties to the lower index.
    ///
    /// A product in f32 gives a shortlist that holds them for certain, since it is as wide as the product's rounding
    /// error; distances of the shortlist are then taken in f64.
    pub fn nearest(&self, queries: ArrayView2<'_, f32>) -> Result<NearestPairs, Error> {
        check("queries", queries, self.rows.ncols())?;
        let block = |queries: ArrayView2<'_, f32>| {
            let centered = &queries - &self.mean;
            let norms = squared_norms(centered.view());
            let squared = approximate(centered.view(), norms.view(), self.centered.view(), self.norms.view());
            let one = |q: usize| {
                let query = queries.row(q).to_vec();
                let margin = 2.0 * error_bound(norms[q], self.largest_norm, query.len());
                let candidates = shortlist(squared.row(q).iter().copied(), margin);
                two_smallest(candidates.into_iter().map(|i| (self.distance(&query, i), self.index[i])))
            };
            (0..queries.nrows()).map(one).collect::<Vec<_>>()
        };
        let blocks: Vec<_> = queries.axis_chunks_iter(Axis(0), BLOCK).collect();
        Ok(NearestPairs::collect(blocks.into_par_iter().flat_map_iter(block).collect()))
    }

    pub(crate) fn distance(&self, query: &[f32], i: usize) -> f64 {
        self.rows.row(i).as_slice().map_or(f64::NAN, |row| exact(query, row))
    }
}
