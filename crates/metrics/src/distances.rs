//! Squared distances by matrix product, and how far off they can be.

use crate::Error;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// Every row finite, and of this width.
pub(crate) fn check(set: &'static str, rows: ArrayView2<'_, f32>, width: usize) -> Result<(), Error> {
    if rows.ncols() != width {
        return Err(Error::Width { set, found: rows.ncols(), expected: width });
    }
    match rows.outer_iter().position(|r| r.iter().any(|x| !x.is_finite())) {
        Some(row) => Err(Error::NotFinite { set, row }),
        None => Ok(()),
    }
}

/// `|row|^2` of each row, f32.
pub(crate) fn squared_norms(rows: ArrayView2<'_, f32>) -> Array1<f32> {
    rows.map_axis(Axis(1), |r| r.iter().map(|x| f64::from(x * x)).sum::<f64>() as f32)
}

/// `|x|^2 + |y|^2 - 2 x y` for every pair: `[M, D]`, `[N, D]` to `[M, N]`, f32.
pub(crate) fn approximate(
    queries: ArrayView2<'_, f32>,
    query_norms: ArrayView1<'_, f32>,
    references: ArrayView2<'_, f32>,
    reference_norms: ArrayView1<'_, f32>,
) -> Array2<f32> {
    let mut product = queries.dot(&references.t());
    for (mut row, &x) in product.outer_iter_mut().zip(query_norms) {
        row.zip_mut_with(&reference_norms, |p, &y| *p = (x + y) - 2.0 * *p);
    }
    product
}

/// A bound on the error of [`approximate`]: a sum of `D` products in f32, in any order, is off by at most about
/// `D * eps * |x| |y|` (Higham 2002, Eq. 3.5), and `2 |x| |y| <= |x|^2 + |y|^2`; doubled for the outer sums and norms.
pub(crate) fn error_bound(query_norm: f32, largest_reference_norm: f32, width: usize) -> f32 {
    2.0 * (width as f32 + 8.0) * f32::EPSILON * (query_norm + largest_reference_norm)
}

/// Euclidean distance in f64.
pub(crate) fn exact(a: &[f32], b: &[f32]) -> f64 {
    let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
    a.iter().zip(b).map(square).sum::<f64>().sqrt()
}

/// The two smallest of `(distance, index)`, ties to the lower index.
pub(crate) fn two_smallest(pairs: impl Iterator<Item = (f64, usize)>) -> [(f64, usize); 2] {
    let mut best = [(f64::INFINITY, usize::MAX); 2];
    for p in pairs {
        if p < best[0] {
            best = [p, best[0]];
        } else if p < best[1] {
            best[1] = p;
        }
    }
    best
}

/// Indices of all values within `margin` of the second smallest: the two nearest are among them if the values are off by
/// at most half of it.
pub(crate) fn shortlist(values: impl Iterator<Item = f32> + Clone, margin: f32) -> Vec<usize> {
    let mut best = [f32::INFINITY; 2];
    for v in values.clone() {
        if v < best[0] {
            best = [v, best[0]];
        } else if v < best[1] {
            best[1] = v;
        }
    }
    values.enumerate().filter(|(_, v)| *v <= best[1] + margin).map(|(i, _)| i).collect()
}
