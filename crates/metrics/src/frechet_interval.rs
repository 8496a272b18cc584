//! How far a Fréchet distance is known, and where it goes as samples grow without end.

use crate::draws::{generator, without_replacement};
use crate::estimate::{NORMAL, influence_error, mean, variance};
use crate::frechet::{Factor, smaller_gram, squared_distance, sum_of_roots};
use crate::linear::{centered, eigenvalues, eigenvectors, outer_products, scale_columns, squares};
use crate::real::{Real, Rows};
use crate::{Error, FrechetDistance, FrechetReference, Interval, Moments};
use faer::linalg::triangular_solve::solve_upper_triangular_in_place;
use faer::{Mat, Par};
use heldout_statistics::student_quantile;
use ndarray::ArrayView2;

/// Groups of the jackknife.
const GROUPS: usize = 20;
/// Sizes of the extrapolation.
const SIZES: usize = 15;
/// Rows that are centered at a time.
const BLOCK: usize = 512;

/// A Fréchet distance with its interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrechetInterval {
    /// The distance and its 95 % interval. It is about the expected distance of a set of this size, so that the bias of
    /// [`crate::frechet_distance`] is not in it; the reference is taken as given.
    pub interval: Interval,
    /// As in [`FrechetDistance`].
    pub rank_deficient: bool,
}

impl FrechetReference {
    /// The distance of rows `[N, D]` with its interval, which costs the eigenvectors of a `[D, D]` matrix.
    ///
    /// Where `N > D` by the delta method: the standard error of the mean of the samples' influences (the derivative of the
    /// squared Bures distance is the identity minus the optimal transport map; Bhatia et al. 2019). Otherwise by the
    /// jackknife that leaves out one of 20 groups of `N / 20` rows (Shao and Wu 1989), with Student's t of 19 degrees of
    /// freedom.
    pub fn interval_of<T: Real>(&self, generated: ArrayView2<'_, T>) -> Result<FrechetInterval, Error> {
        let rows = Rows::new("generated", generated, self.width(), 3)?;
        let (distance, parts) = self.parts_of(&rows)?;
        let interval = parts.interval(distance.value).at_least(0.0);
        Ok(FrechetInterval { interval, rank_deficient: distance.rank_deficient })
    }

    /// The distance, and what its rows, or groups of them, have to do with it.
    pub(crate) fn parts_of<T: Real>(&self, rows: &Rows<'_, T>) -> Result<(FrechetDistance, Parts), Error> {
        if rows.len() > self.width() {
            return self.by_delta_method(rows);
        }
        Ok((self.distance_of_rows(rows)?, self.by_jackknife(rows)?))
    }

    fn by_delta_method<T: Real>(&self, rows: &Rows<'_, T>) -> Result<(FrechetDistance, Parts), Error> {
        let mut moments = Moments::new(self.width());
        moments.add_rows(rows);
        let covariance = moments.covariance_matrix();
        let own = Factor::of(&covariance, rows.len() - 1)?;
        let (roots, map) = self.transport(&own)?;
        let trace: f64 = (0..self.width()).map(|j| covariance[(j, j)]).sum();
        let shift: Vec<f64> = moments.mean().iter().zip(&self.mean).map(|(a, b)| a - b).collect();
        let mut influence = Vec::with_capacity(rows.len());
        for first in (0..rows.len()).step_by(BLOCK) {
            let x = centered(rows, first, rows.len().min(first + BLOCK), moments.mean());
            let moved = map.transpose() * &x;
            influence.extend((0..x.ncols()).map(|i| {
                let (x, moved) = (x.col_as_slice(i), moved.col_as_slice(i));
                let linear: f64 = x.iter().zip(&shift).map(|(x, s)| 2.0 * s * x).sum();
                let square = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>();
                linear + square(x) - square(moved) // the constant tr (I - A) S1 is no part of a variance
            }));
        }
        let value =
            (squared_distance(moments.mean(), &self.mean) + trace + self.trace - 2.0 * roots).max(0.0);
        let rank_deficient = !(own.triangular && self.factor.triangular);
        Ok((FrechetDistance { value, rank_deficient }, Parts::Influences(influence)))
    }

    /// `tr (S1 S2)^{1/2}`, and `Q` of the optimal transport map `A = Q Q'` with `A S1 A = S2`.
    ///
    /// With `S1 = F F'` and `F' S2 F = V E V'`, `A = F^-T V E^{1/2} V' F^-1`; on the span of `F` alone where that is not
    /// everything, since no sample leaves it.
    fn transport(&self, own: &Factor) -> Result<(f64, Mat<f64>), Error> {
        let product = own.matrix.transpose() * &self.factor.matrix;
        let (values, mut map) = eigenvectors(&outer_products(product.as_ref()))?;
        let values: Vec<f64> = values.into_iter().map(|v| v.max(0.0)).collect();
        scale_columns(&mut map, values.iter().map(|v| v.sqrt().sqrt()));
        if own.triangular {
            solve_upper_triangular_in_place(own.matrix.transpose(), map.as_mut(), Par::rayon(0));
        } else {
            // Columns of F are orthogonal: F^-T is F with its columns divided by their squared lengths.
            let mut inverse = own.matrix.clone();
            let lengths: Vec<f64> =
                inverse.col_iter().map(|c| c.iter().map(|x| x * x).sum::<f64>().recip()).collect();
            scale_columns(&mut inverse, lengths);
            map = inverse * map;
        }
        Ok((sum_of_roots(&values, own.rank.min(self.factor.rank)), map))
    }

    /// The distance without a group at a time.
    fn by_jackknife<T: Real>(&self, rows: &Rows<'_, T>) -> Result<Parts, Error> {
        let without = |group: usize| {
            let kept = rows.select(&without_group(rows.len(), group));
            let mut mean = vec![0.0; kept.width];
            kept.iter().for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += (*x).into()));
            mean.iter_mut().for_each(|m| *m /= kept.len() as f64);
            let x = centered(&kept, 0, kept.len(), &mean);
            let n = (kept.len() - 1) as f64;
            let trace = squares(x.as_ref()) / n;
            // Eigenvalues instead of singular values: their error is far below what the jackknife measures.
            let product = smaller_gram(&(x.transpose() * &self.factor.matrix));
            let root = sum_of_roots(&eigenvalues(&product)?, kept.len() - 1) / n.sqrt();
            Ok(squared_distance(&mean, &self.mean) + trace + self.trace - 2.0 * root)
        };
        let values = (0..GROUPS.min(rows.len())).map(without).collect::<Result<_, Error>>()?;
        Ok(Parts::WithoutGroup { rows: rows.len(), values })
    }

    /// The distance as the number of generated samples goes to infinity: the intercept of a line through the distances of
    /// 15 subsets of rows `[N, D]` against one over their sizes, from `min(5000, max(N / 10, 2))` to `N`; Chong and Forsyth
    /// 2020.
    ///
    /// The interval is the intercept's by least squares. Subsets are drawn by `seed` and share samples, so that it is
    /// narrower than independent sets would show; and the reference's own bias stays in.
    pub fn infinity_of<T: Real>(
        &self,
        generated: ArrayView2<'_, T>,
        seed: u64,
    ) -> Result<FrechetInterval, Error> {
        let rows = Rows::new("generated", generated, self.width(), SIZES)?;
        let n = rows.len();
        let least = 5000.0f64.min((n as f64 / 10.0).max(2.0));
        let (mut x, mut y, mut rank_deficient) = (Vec::new(), Vec::new(), false);
        for k in 0..SIZES {
            let share = k as f64 / (SIZES - 1) as f64;
            let size = if share == 1.0 { n } else { (least + (n as f64 - least) * share) as usize };
            let drawn = without_replacement(&mut generator(seed, k as u64), n, size);
            let found = self.distance_of_rows(&rows.select(&drawn))?;
            x.push(1.0 / size as f64);
            y.push(found.value);
            rank_deficient |= found.rank_deficient;
        }
        Ok(FrechetInterval { interval: intercept(&x, &y), rank_deficient })
    }
}

/// What single rows have to do with a statistic, from which its standard error follows.
#[derive(Debug)]
pub(crate) enum Parts {
    /// Of each row its influence, up to a constant.
    Influences(Vec<f64>),
    /// The statistic of `rows` rows without each group of them in turn.
    WithoutGroup { rows: usize, values: Vec<f64> },
}

impl Parts {
    /// Around the statistic of all rows.
    pub(crate) fn interval(&self, value: f64) -> Interval {
        match self {
            Self::Influences(influence) => Interval::around(value, influence_error(influence), NORMAL),
            Self::WithoutGroup { rows, values } => {
                let size = rows / values.len();
                let error = (variance(values, 0) * (rows - size) as f64 / size as f64).sqrt();
                Interval::around(value, error, student_quantile(GROUPS - 1))
            }
        }
    }
}

/// All of `n` rows but those of a group: row `i` is in group `i mod 20`. All groups have one size, since the distance of fewer
/// rows is larger; what is left over is in none.
pub(crate) fn without_group(n: usize, group: usize) -> Vec<usize> {
    let groups = GROUPS.min(n);
    let size = n / groups;
    (0..n).filter(|i| i % groups != group || *i >= size * groups).collect()
}

/// The intercept of the least squares line through `SIZES` points, and its interval.
fn intercept(x: &[f64], y: &[f64]) -> Interval {
    let (center, n) = (mean(x), x.len() as f64);
    let spread = variance(x, 0) * n;
    let slope = x.iter().zip(y).map(|(x, y)| (x - center) * y).sum::<f64>() / spread;
    let value = mean(y) - slope * center;
    let residuals: f64 = x.iter().zip(y).map(|(x, y)| (y - value - slope * x).powi(2)).sum();
    let error = (residuals / (n - 2.0) * (1.0 / n + center * center / spread)).sqrt();
    Interval::around(value, error, student_quantile(SIZES - 2))
}
