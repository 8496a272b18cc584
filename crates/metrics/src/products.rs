//! The largest cosines of two sets.

use crate::real::{Directions, Real};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use rayon::prelude::*;

/// Queries and references of one product.
const BLOCK: usize = 256;

/// The largest `of` the cosine with a reference, for every query; rows of one width. In f64, since `1 - |cos|` of a copy is
/// below what f32 can tell from 0.
pub(crate) fn largest_cosines<T: Real>(
    queries: &Directions<'_, '_, T>,
    references: &Directions<'_, '_, T>,
    of: impl Fn(f64) -> f64 + Sync,
) -> Vec<f64> {
    let (n, m) = (queries.rows.len(), references.rows.len());
    let of_block = |first: usize| {
        let x = queries.units(first, n.min(first + BLOCK));
        let mut best = vec![f64::NEG_INFINITY; x.ncols()];
        for start in (0..m).step_by(BLOCK) {
            let y = references.units(start, m.min(start + BLOCK));
            let mut product = Mat::<f64>::zeros(x.ncols(), y.ncols());
            matmul(product.as_mut(), Accum::Replace, x.transpose(), &y, 1.0, Par::Seq);
            for j in 0..y.ncols() {
                let column = best.iter_mut().zip(product.col_as_slice(j));
                column.for_each(|(best, cosine)| *best = best.max(of(*cosine)));
            }
        }
        best
    };
    let firsts: Vec<usize> = (0..n).step_by(BLOCK).collect();
    firsts.into_par_iter().flat_map_iter(of_block).collect()
}
