//! The Fréchet distance of two sets of features.

use crate::linear::{
    centered, eigenvalues, eigenvectors, lower_outer_products, nuclear_norm, outer_products,
    product_of_triangles, scale_columns, squares,
};
use crate::real::{Real, Rows};
use crate::{Error, Moments};
use faer::{Mat, Side};
use ndarray::ArrayView2;

/// A Fréchet distance.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrechetDistance {
    /// `|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^{1/2}`, in squared units of the features.
    pub value: f64,
    /// Whether a covariance is not of full rank: too few rows (at most `D`), or features that depend on each other. The
    /// number is then exact for the rows that were given, but says little of the distribution behind them.
    pub rank_deficient: bool,
}

/// The side that stays the same over many comparisons: its moments, and a factor of its covariance.
#[derive(Debug, Clone)]
pub struct FrechetReference {
    pub(crate) mean: Vec<f64>,
    pub(crate) trace: f64,
    pub(crate) factor: Factor,
}

/// `F` of `S = F F'`.
#[derive(Debug, Clone)]
pub(crate) struct Factor {
    /// `[D, R]`.
    pub(crate) matrix: Mat<f64>,
    /// Lower triangular and of full rank; otherwise columns that span what the rows span.
    pub(crate) triangular: bool,
    /// At most `R`.
    pub(crate) rank: usize,
}

impl Factor {
    /// Of a covariance (its lower triangle) whose rank is at most `rank`: Cholesky where it exists, eigenvectors otherwise.
    pub(crate) fn of(covariance: &Mat<f64>, rank: usize) -> Result<Self, Error> {
        if let Some(found) = Self::cholesky(covariance, rank) {
            return Ok(found);
        }
        let width = covariance.nrows();
        let (values, vectors) = eigenvectors(covariance)?;
        let least = Self::rounding(covariance);
        let first = values.iter().position(|v| *v > least).unwrap_or(width).max(width.saturating_sub(rank));
        let mut matrix = vectors.subcols(first, width - first).to_owned();
        scale_columns(&mut matrix, values[first..].iter().map(|v| v.sqrt()));
        Ok(Self { matrix, triangular: false, rank: width - first })
    }

    /// Where the covariance is of full rank.
    fn cholesky(covariance: &Mat<f64>, rank: usize) -> Option<Self> {
        let width = covariance.nrows();
        let found = if rank < width { None } else { covariance.llt(Side::Lower).ok() }?;
        let matrix = found.L().to_owned();
        let least = Self::rounding(covariance);
        let full = (0..width).all(|j| matrix[(j, j)].powi(2) > least);
        full.then_some(Self { matrix, triangular: true, rank: width })
    }

    /// A pivot or eigenvalue of this size is a zero that was not hit.
    fn rounding(covariance: &Mat<f64>) -> f64 {
        let width = covariance.nrows();
        let largest = (0..width).map(|j| covariance[(j, j)]).fold(0.0, f64::max);
        largest * width as f64 * f64::EPSILON
    }

    /// Of the covariance of few rows: the centered rows themselves.
    fn of_rows<T: Real>(rows: &Rows<'_, T>, mean: &[f64]) -> Self {
        let mut matrix = centered(rows, 0, rows.len(), mean);
        let factor = 1.0 / ((rows.len() - 1) as f64).sqrt();
        scale_columns(&mut matrix, std::iter::repeat_n(factor, rows.len()));
        Self { matrix, triangular: false, rank: rows.len() - 1 }
    }
}

/// `|m1 - m2|^2`.
pub(crate) fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum()
}

/// The sum of the roots of the `rank` largest: those beyond are zero but for rounding, and its root would be no small error.
pub(crate) fn sum_of_roots(ascending: &[f64], rank: usize) -> f64 {
    ascending.iter().rev().take(rank).map(|v| v.max(0.0).sqrt()).sum()
}

/// `tr S`, an error where all rows are equal.
fn trace(set: &'static str, covariance: &Mat<f64>) -> Result<f64, Error> {
    let trace = (0..covariance.nrows()).map(|j| covariance[(j, j)]).sum();
    if trace > 0.0 { Ok(trace) } else { Err(Error::TooFew { set, found: 1, needed: 2 }) }
}

impl FrechetReference {
    /// Of rows `[N, D]`.
    pub fn new<T: Real>(reference: ArrayView2<'_, T>) -> Result<Self, Error> {
        let rows = Rows::new("reference", reference, reference.ncols(), 2)?;
        Self::of_rows("reference", &rows)
    }

    /// Of moments: of a set that was streamed, or of published ones.
    pub fn from_moments(reference: &Moments) -> Result<Self, Error> {
        Self::of_moments("reference", reference)
    }

    fn of_moments(set: &'static str, moments: &Moments) -> Result<Self, Error> {
        if moments.count() < 2 {
            return Err(Error::TooFew { set, found: moments.count(), needed: 2 });
        }
        let covariance = moments.lower_covariance();
        let trace = trace(set, &covariance)?;
        let factor = Factor::of(&covariance, moments.count() - 1)?;
        Ok(Self { mean: moments.mean().to_vec(), trace, factor })
    }

    pub(crate) fn of_rows<T: Real>(set: &'static str, rows: &Rows<'_, T>) -> Result<Self, Error> {
        if rows.len() > rows.width {
            let mut moments = Moments::new(rows.width);
            moments.add_rows(rows);
            return Self::of_moments(set, &moments);
        }
        let mut mean = vec![0.0; rows.width];
        rows.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += (*x).into()));
        mean.iter_mut().for_each(|m| *m /= rows.len() as f64);
        let factor = Factor::of_rows(rows, &mean);
        Ok(Self { trace: squares(factor.matrix.as_ref()), mean, factor })
    }

    /// `D`.
    pub fn width(&self) -> usize {
        self.mean.len()
    }

    /// The distance of a set by its moments.
    ///
    /// The trace of the root is the sum of the roots of the eigenvalues of `F' S1 F`, where `S2 = F F'`: symmetric, so that
    /// nothing imaginary can come up and no jitter is needed.
    pub fn distance(&self, generated: &Moments) -> Result<FrechetDistance, Error> {
        self.check_width(generated.width())?;
        if generated.count() < 2 {
            return Err(Error::TooFew { set: "generated", found: generated.count(), needed: 2 });
        }
        let covariance = generated.lower_covariance();
        let trace = trace("generated", &covariance)?;
        let rank = generated.count() - 1;
        let own = Factor::cholesky(&covariance, rank);
        let product = match &own {
            Some(own) if self.factor.triangular => {
                lower_outer_products(product_of_triangles(&self.factor.matrix, &own.matrix).transpose())
            }
            _ => self.factor.matrix.transpose() * (generated.covariance_matrix() * &self.factor.matrix),
        };
        let root = sum_of_roots(&eigenvalues(&product)?, rank.min(self.factor.rank));
        Ok(self.assemble(generated.mean(), trace, root, own.is_none()))
    }

    /// The distance of a set by its rows `[N, D]`: at most `D` rows go by the nuclear norm of the product of the two
    /// factors, which has no root of a rounding error in it and needs no `[D, D]` matrix.
    pub fn distance_of<T: Real>(&self, generated: ArrayView2<'_, T>) -> Result<FrechetDistance, Error> {
        self.distance_of_rows(&Rows::new("generated", generated, self.width(), 2)?)
    }

    pub(crate) fn distance_of_rows<T: Real>(&self, rows: &Rows<'_, T>) -> Result<FrechetDistance, Error> {
        if self.factor.triangular && rows.len() > self.width() {
            let mut moments = Moments::new(self.width());
            moments.add_rows(rows);
            return self.distance(&moments);
        }
        let other = Self::of_rows("generated", rows)?;
        let root = nuclear_norm(&(other.factor.matrix.transpose() * &self.factor.matrix))?;
        Ok(self.assemble(&other.mean, other.trace, root, !other.factor.triangular))
    }

    pub(crate) fn check_width(&self, found: usize) -> Result<(), Error> {
        match self.width() {
            width if width == found => Ok(()),
            expected => Err(Error::Width { set: "generated", found, expected }),
        }
    }

    fn assemble(&self, mean: &[f64], trace: f64, root: f64, deficient: bool) -> FrechetDistance {
        FrechetDistance {
            // Of equal sets a rounding error is left, which may have either sign.
            value: (squared_distance(mean, &self.mean) + trace + self.trace - 2.0 * root).max(0.0),
            rank_deficient: deficient || !self.factor.triangular,
        }
    }
}

/// The Fréchet distance of Gaussians fitted to two sets of features `[N, D]` and `[M, D]`; Heusel et al. 2017, Eq. 6. It is
/// FID where the features are the Inception network's, and sFID on features that keep their place.
///
/// Covariances are divided by `N - 1`; all sums are in f64. Biased upwards by `O(D / N)`: compare sets of one size only.
pub fn frechet_distance<T: Real>(
    generated: ArrayView2<'_, T>,
    reference: ArrayView2<'_, T>,
) -> Result<FrechetDistance, Error> {
    FrechetReference::new(reference)?.distance_of(generated)
}

/// The smaller of `P' P` and `P P'`, whose eigenvalues are the squares of `P`'s singular values.
pub(crate) fn smaller_gram(p: &Mat<f64>) -> Mat<f64> {
    if p.nrows() <= p.ncols() { outer_products(p.as_ref()) } else { outer_products(p.transpose()) }
}
