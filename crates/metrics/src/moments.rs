//! Mean and covariance of features, batch by batch.

use crate::Error;
use crate::linear::{add_outer_products, mirror};
use crate::real::{Real, Rows};
use faer::Mat;
use ndarray::{Array2, ArrayView1, ArrayView2};

/// Rows that are centered at a time.
const BLOCK: usize = 512;

/// Count, mean and covariance (divided by `N - 1`) of rows of `D` numbers, in f64: what Fréchet distances need.
///
/// Batches are merged by their own means (Chan, Golub and LeVeque 1983), so that an offset of the features costs no
/// digits. Memory is `D * D` numbers, whatever the count.
#[derive(Debug, Clone)]
pub struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Sum of the outer products of the centered rows; its lower triangle.
    scatter: Mat<f64>,
}

impl Moments {
    /// Of no rows yet.
    pub fn new(width: usize) -> Self {
        Self { count: 0, mean: vec![0.0; width], scatter: Mat::zeros(width, width) }
    }

    /// Of a whole set `[N, D]`. `set` is what errors call it.
    pub fn of<T: Real>(set: &'static str, rows: ArrayView2<'_, T>) -> Result<Self, Error> {
        let rows = Rows::new(set, rows, rows.ncols(), 2)?;
        let mut moments = Self::new(rows.width);
        moments.add_rows(&rows);
        Ok(moments)
    }

    /// From what others have computed, such as the `mu` and `sigma` of a reference set that is published without its
    /// features.
    ///
    /// Errors: a covariance that is not `[D, D]`, not finite or not symmetric, a mean that is not finite, a count below 2.
    pub fn from_parts(
        count: usize,
        mean: ArrayView1<'_, f64>,
        covariance: ArrayView2<'_, f64>,
    ) -> Result<Self, Error> {
        let width = mean.len();
        if count < 2 {
            return Err(Error::TooFew { set: "moments", found: count, needed: 2 });
        }
        if mean.iter().any(|x| !x.is_finite()) {
            return Err(Error::NotFinite { set: "mean", row: 0 });
        }
        let rows = Rows::new("covariance", covariance, width, 1)?;
        if rows.len() != width {
            return Err(Error::Width { set: "covariance", found: rows.len(), expected: width });
        }
        let largest = covariance.diag().iter().fold(0.0f64, |a, x| a.max(x.abs()));
        let skew =
            |i: usize| (0..i).any(|j| (covariance[(i, j)] - covariance[(j, i)]).abs() > 1e-6 * largest);
        if let Some(row) = (0..width).find(|i| skew(*i) || covariance[(*i, *i)] < 0.0) {
            return Err(Error::NoCovariance { row });
        }
        let factor = (count - 1) as f64;
        let scatter = Mat::from_fn(width, width, |i, j| covariance[(i, j)] * factor);
        Ok(Self { count, mean: mean.to_vec(), scatter })
    }

    /// Adds a batch `[B, D]`. `set` is what errors call it; they count rows from the first batch on.
    pub fn add<T: Real>(&mut self, set: &'static str, batch: ArrayView2<'_, T>) -> Result<(), Error> {
        let rows = Rows::new(set, batch, self.mean.len(), 0).map_err(|e| match e {
            Error::NotFinite { set, row } => Error::NotFinite { set, row: row + self.count },
            other => other,
        })?;
        self.add_rows(&rows);
        Ok(())
    }

    pub(crate) fn add_rows<T: Real>(&mut self, rows: &Rows<'_, T>) {
        for first in (0..rows.len()).step_by(BLOCK) {
            let last = rows.len().min(first + BLOCK);
            let mut mean = vec![0.0; self.mean.len()];
            for i in first..last {
                mean.iter_mut().zip(rows.row(i)).for_each(|(m, x)| *m += (*x).into());
            }
            mean.iter_mut().for_each(|m| *m /= (last - first) as f64);
            // Features as columns: the product is twice as fast as with samples as columns.
            let part = Mat::from_fn(last - first, mean.len(), |i, j| rows.row(first + i)[j].into() - mean[j]);
            add_outer_products(&mut self.scatter, part.transpose());
            self.shift(last - first, &mean);
        }
    }

    /// Takes in the means of a batch whose scatter is already added.
    fn shift(&mut self, count: usize, mean: &[f64]) {
        let (n, b) = (self.count as f64, count as f64);
        let delta = Mat::from_fn(mean.len(), 1, |j, _| (mean[j] - self.mean[j]) * (n * b / (n + b)).sqrt());
        add_outer_products(&mut self.scatter, delta.as_ref());
        self.mean.iter_mut().zip(mean).for_each(|(m, x)| *m += (x - *m) * (b / (n + b)));
        self.count += count;
    }

    /// Rows so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// `D`.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// Mean `[D]`.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Covariance `[D, D]`, divided by `N - 1`; NaN of fewer than two rows.
    pub fn covariance(&self) -> Array2<f64> {
        let m = self.covariance_matrix();
        Array2::from_shape_fn((self.width(), self.width()), |(i, j)| m[(i, j)])
    }

    pub(crate) fn covariance_matrix(&self) -> Mat<f64> {
        let mut m = self.lower_covariance();
        mirror(&mut m);
        m
    }

    /// What is above the diagonal means nothing.
    pub(crate) fn lower_covariance(&self) -> Mat<f64> {
        faer::Scale(1.0 / (self.count as f64 - 1.0)) * &self.scatter
    }
}
