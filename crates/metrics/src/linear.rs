//! The linear algebra that metrics need, in f64: thin calls of faer.

use crate::Error;
use crate::real::{Real, Rows};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par, Side};

/// Columns of one product where only a triangle is wanted or there.
const STRIP: usize = 256;

/// Adds `columns columns'` to the lower triangle of `sum`: `[D, N]`, `[D, D]`. Strips of it also get what is above the
/// diagonal within them.
pub(crate) fn add_outer_products(sum: &mut Mat<f64>, columns: MatRef<'_, f64>) {
    let size = sum.nrows();
    for j in (0..size).step_by(STRIP) {
        let below = columns.subrows(j, size - j);
        let strip = below.subrows(0, STRIP.min(size - j));
        let part = sum.submatrix_mut(j, j, size - j, strip.nrows());
        matmul(part, Accum::Add, below, strip.transpose(), 1.0, Par::rayon(0));
    }
}

/// `a' b` of two lower triangular matrices `[D, D]`.
pub(crate) fn product_of_triangles(a: &Mat<f64>, b: &Mat<f64>) -> Mat<f64> {
    let size = a.nrows();
    let mut product = Mat::zeros(size, size);
    for j in (0..size).step_by(STRIP) {
        let width = STRIP.min(size - j);
        let left = a.subrows(j, size - j).transpose();
        let right = b.submatrix(j, j, size - j, width);
        matmul(product.subcols_mut(j, width), Accum::Replace, left, right, 1.0, Par::rayon(0));
    }
    product
}

/// The lower triangle of `columns columns'`: `[D, N]` to `[D, D]`.
pub(crate) fn lower_outer_products(columns: MatRef<'_, f64>) -> Mat<f64> {
    let mut sum = Mat::zeros(columns.nrows(), columns.nrows());
    add_outer_products(&mut sum, columns);
    sum
}

/// Both triangles of it.
pub(crate) fn outer_products(columns: MatRef<'_, f64>) -> Mat<f64> {
    let mut sum = lower_outer_products(columns);
    mirror(&mut sum);
    sum
}

/// Copies the lower triangle onto the upper.
pub(crate) fn mirror(m: &mut Mat<f64>) {
    for j in 0..m.ncols() {
        for i in 0..j {
            m[(i, j)] = m[(j, i)];
        }
    }
}

/// Rows `first..last` minus `mean`, as the columns of `[D, N]`.
pub(crate) fn centered<T: Real>(rows: &Rows<'_, T>, first: usize, last: usize, mean: &[f64]) -> Mat<f64> {
    Mat::from_fn(rows.width, last - first, |j, i| rows.row(first + i)[j].into() - mean[j])
}

/// Eigenvalues of a symmetric matrix from its lower triangle, ascending.
pub(crate) fn eigenvalues(m: &Mat<f64>) -> Result<Vec<f64>, Error> {
    m.self_adjoint_eigenvalues(Side::Lower).map_err(|_| Error::NoConvergence { what: "eigenvalues" })
}

/// Eigenvalues of a symmetric matrix, ascending, and its eigenvectors as columns.
pub(crate) fn eigenvectors(m: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), Error> {
    let found =
        m.self_adjoint_eigen(Side::Lower).map_err(|_| Error::NoConvergence { what: "eigenvectors" })?;
    Ok((found.S().column_vector().iter().copied().collect(), found.U().to_owned()))
}

/// Sum of the singular values.
pub(crate) fn nuclear_norm(m: &Mat<f64>) -> Result<f64, Error> {
    let values = m.singular_values().map_err(|_| Error::NoConvergence { what: "singular values" })?;
    Ok(values.into_iter().sum())
}

/// Sum of the squares of all entries.
pub(crate) fn squares(m: MatRef<'_, f64>) -> f64 {
    m.col_iter().map(|c| c.iter().map(|x| x * x).sum::<f64>()).sum()
}

/// Multiplies column `j` by `factors[j]`.
pub(crate) fn scale_columns(m: &mut Mat<f64>, factors: impl IntoIterator<Item = f64>) {
    for (j, factor) in factors.into_iter().enumerate() {
        m.col_as_slice_mut(j).iter_mut().for_each(|x| *x *= factor);
    }
}
