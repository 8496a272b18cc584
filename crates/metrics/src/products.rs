//! The largest inner products of two sets.

use crate::real::{Real, Rows};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use rayon::prelude::*;

/// Queries and references of one product.
const BLOCK: usize = 256;

/// The largest `of` an inner product with a reference, for every query; rows of one width.
pub(crate) fn largest_products<T: Real>(
    queries: &Rows<'_, T>,
    references: &Rows<'_, T>,
    of: impl Fn(f64) -> f64 + Sync,
) -> Vec<f64> {
    let of_block = |first: usize| {
        let last = queries.len().min(first + BLOCK);
        let mut best = vec![f64::NEG_INFINITY; last - first];
        for_products(queries, first, last, references, |i, _, product: T| {
            best[i] = best[i].max(of(product.into()));
        });
        best
    };
    let firsts: Vec<usize> = (0..queries.len()).step_by(BLOCK).collect();
    firsts.into_par_iter().flat_map_iter(of_block).collect()
}

/// Shows `(query - first, reference, product)` for queries `first..last` and all references.
fn for_products<T: Real>(
    queries: &Rows<'_, T>,
    first: usize,
    last: usize,
    references: &Rows<'_, T>,
    mut show: impl FnMut(usize, usize, T),
) {
    let x = queries.matrix().subrows(first, last - first);
    for start in (0..references.len()).step_by(BLOCK) {
        let y = references.matrix().subrows(start, BLOCK.min(references.len() - start));
        let mut product = Mat::<T>::zeros(x.nrows(), y.nrows());
        matmul(product.as_mut(), Accum::Replace, x, y.transpose(), T::from_f64(1.0), Par::Seq);
        for j in 0..y.nrows() {
            product.col_as_slice(j).iter().enumerate().for_each(|(i, p)| show(i, start + j, *p));
        }
    }
}
