//! Cells of a space: principal components and k-means, fitted on one set.

use crate::Error;
use crate::draws::{below, generator, subset, uniform};
use crate::linear::{add_outer_products, centered, eigenvectors, scale_columns};
use crate::real::{Real, Rows};
use crate::{Moments, frechet::squared_distance};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use ndarray::ArrayView2;
use rayon::prelude::*;

/// Components that are kept of wider features.
const COMPONENTS: usize = 64;
/// Features whose covariance is made; of wider ones the components are those of at most so many rows.
const WIDEST: usize = 4096;
const DRAWN: usize = 2048;
/// Numbers that are in f64 at a time.
const BLOCK: usize = 1 << 20;
/// Starts of k-means, of which the best counts.
const STARTS: u64 = 10;
/// Steps of a start, where it does not settle earlier.
const STEPS: usize = 300;

/// A division of feature space into cells, fitted on the training set: the first 64 principal components where features are
/// wider, then k-means (Lloyd 1982) from ten starts by k-means++ (Arthur and Vassilvitskii 2007).
#[derive(Debug, Clone)]
pub struct Cells {
    mean: Vec<f64>,
    /// `[D, C]`, where features are projected.
    components: Option<Mat<f64>>,
    centers: Vec<Vec<f64>>,
}

impl Cells {
    /// `count` cells of the rows `[N, D]` of `train`; 3 is usual. Errors: no cell, more than distinct rows.
    pub fn fit<T: Real>(train: ArrayView2<'_, T>, count: usize, seed: u64) -> Result<Self, Error> {
        let rows = Rows::new("train", train, train.ncols(), 1)?;
        let mut cells = Self { mean: vec![0.0; rows.width], components: None, centers: Vec::new() };
        if rows.width > COMPONENTS {
            let (mean, components) = match rows.width <= WIDEST {
                true => by_covariance(&rows)?,
                false => by_products(&rows, seed)?,
            };
            cells.mean = mean;
            cells.components = Some(components);
        }
        let points = cells.project(&rows);
        let starts: Vec<_> = (0..STARTS).into_par_iter().map(|k| start(&points, count, seed, k)).collect();
        let best = starts.into_iter().flatten().min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, centers)) = best else {
            let reason = format!("{count}, where 1 to the number of distinct training rows are possible");
            return Err(Error::Setting { setting: "cells", reason });
        };
        cells.centers = centers;
        Ok(cells)
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.centers.len()
    }

    /// The cell of each row `[N, D]`: that of the nearest center, ties to the lower index. `set` is what errors call it.
    pub fn assign<T: Real>(&self, set: &'static str, rows: ArrayView2<'_, T>) -> Result<Vec<usize>, Error> {
        let rows = Rows::new(set, rows, self.mean.len(), 1)?;
        Ok(self.project(&rows).iter().map(|x| nearest(x, &self.centers).1).collect())
    }

    fn project<T: Real>(&self, rows: &Rows<'_, T>) -> Vec<Vec<f64>> {
        let Some(components) = &self.components else {
            return rows.iter().map(|row| row.iter().map(|x| (*x).into()).collect()).collect();
        };
        let block = (BLOCK / rows.width).max(1);
        let of_block = |first: usize| {
            let x = centered(rows, first, rows.len().min(first + block), &self.mean);
            let mut along = Mat::<f64>::zeros(components.ncols(), x.ncols());
            matmul(along.as_mut(), Accum::Replace, components.transpose(), &x, 1.0, Par::Seq);
            (0..along.ncols()).map(|i| along.col_as_slice(i).to_vec()).collect::<Vec<_>>()
        };
        let firsts: Vec<usize> = (0..rows.len()).step_by(block).collect();
        firsts.into_par_iter().flat_map_iter(of_block).collect()
    }
}

/// Mean and first principal components `[D, C]`.
fn by_covariance<T: Real>(rows: &Rows<'_, T>) -> Result<(Vec<f64>, Mat<f64>), Error> {
    let mut moments = Moments::new(rows.width);
    moments.add_rows(rows);
    let (_, vectors) = eigenvectors(&moments.covariance_matrix())?;
    let first = vectors.subcols(rows.width - COMPONENTS, COMPONENTS).to_owned();
    Ok((moments.mean().to_vec(), first))
}

/// The same from the products of rows with each other, of at most 2048 that `seed` draws: `X' U / s` where `X X' = U s^2 U'`. No
/// `[D, D]` matrix is made, and no copy of the rows.
fn by_products<T: Real>(rows: &Rows<'_, T>, seed: u64) -> Result<(Vec<f64>, Mat<f64>), Error> {
    let drawn = subset(rows.len(), DRAWN, seed);
    let n = drawn.len();
    let mut mean = vec![0.0; rows.width];
    drawn.iter().for_each(|i| mean.iter_mut().zip(rows.row(*i)).for_each(|(m, x)| *m += (*x).into()));
    mean.iter_mut().for_each(|m| *m /= n as f64);
    let strip = (BLOCK / n).max(1);
    let firsts = || (0..rows.width).step_by(strip);
    let part = |first: usize| {
        let columns = strip.min(rows.width - first);
        Mat::from_fn(n, columns, |i, j| rows.row(drawn[i])[first + j].into() - mean[first + j])
    };
    let mut products = Mat::zeros(n, n);
    firsts().for_each(|first| add_outer_products(&mut products, part(first).as_ref()));
    let (squares, vectors) = eigenvectors(&products)?;
    let least = squares.last().copied().unwrap_or(0.0) * n as f64 * f64::EPSILON;
    let first = (n - COMPONENTS.min(n)..n).find(|k| squares[*k] > least).unwrap_or(n);
    let mut vectors = vectors.subcols(first, n - first).to_owned();
    scale_columns(&mut vectors, squares[first..].iter().map(|s| s.sqrt().recip()));
    let mut components = Mat::zeros(rows.width, n - first);
    for start in firsts() {
        let x = part(start);
        let rows_of = components.subrows_mut(start, x.ncols());
        matmul(rows_of, Accum::Replace, x.transpose(), &vectors, 1.0, Par::rayon(0));
    }
    Ok((mean, components))
}

/// Squared distance to the nearest center, and which it is.
fn nearest(x: &[f64], centers: &[Vec<f64>]) -> (f64, usize) {
    let each = centers.iter().enumerate().map(|(k, c)| (squared_distance(x, c), k));
    each.fold((f64::INFINITY, 0), |best, found| if found.0 < best.0 { found } else { best })
}

/// One start of k-means: the sum of squared distances and the centers; nothing where there are not enough distinct points.
fn start(points: &[Vec<f64>], count: usize, seed: u64, stream: u64) -> Option<(f64, Vec<Vec<f64>>)> {
    if count == 0 {
        return None;
    }
    let mut rng = generator(seed, stream);
    let mut centers = vec![points[below(&mut rng, points.len())].clone()];
    while centers.len() < count {
        // The next center is a point, drawn by its squared distance to those there are.
        let squares: Vec<f64> = points.iter().map(|x| nearest(x, &centers).0).collect();
        let mut left = uniform(&mut rng) * squares.iter().sum::<f64>();
        let chosen = squares.iter().position(|s| {
            left -= s;
            left < 0.0
        });
        centers.push(points[chosen?].clone());
    }
    let mut total = f64::INFINITY;
    for _ in 0..STEPS {
        let found: Vec<(f64, usize)> = points.iter().map(|x| nearest(x, &centers)).collect();
        let now: f64 = found.iter().map(|f| f.0).sum();
        if now >= total {
            break;
        }
        total = now;
        let mut sums = vec![(0.0, vec![0.0; points[0].len()]); count];
        for (x, (_, k)) in points.iter().zip(found) {
            sums[k].0 += 1.0;
            sums[k].1.iter_mut().zip(x).for_each(|(s, x)| *s += x);
        }
        for (center, (members, sum)) in centers.iter_mut().zip(sums) {
            // A center that lost all its points stays where it is.
            if members > 0.0 {
                *center = sum.into_iter().map(|s| s / members).collect();
            }
        }
    }
    Some((total, centers))
}
