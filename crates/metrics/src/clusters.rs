//! Cells of a space: principal components and k-means, fitted on one set.

use crate::Error;
use crate::draws::{below, generator, uniform};
use crate::linear::eigenvectors;
use crate::real::{Real, Rows};
use crate::{Moments, frechet::squared_distance};
use faer::Mat;
use ndarray::ArrayView2;
use rayon::prelude::*;

/// Components that are kept of wider features.
const COMPONENTS: usize = 64;
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
            let mut moments = Moments::new(rows.width);
            moments.add_rows(&rows);
            let (_, vectors) = eigenvectors(&moments.covariance_matrix())?;
            cells.mean = moments.mean().to_vec();
            cells.components = Some(vectors.subcols(rows.width - COMPONENTS, COMPONENTS).to_owned());
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
        let center = |row: &[T]| row.iter().zip(&self.mean).map(|(x, m)| (*x).into() - m).collect();
        let points: Vec<Vec<f64>> = rows.iter().map(center).collect();
        let Some(components) = &self.components else { return points };
        let along = |x: &Vec<f64>| {
            let dot = |c: usize| x.iter().zip(components.col_as_slice(c)).map(|(a, b)| a * b).sum();
            (0..components.ncols()).map(dot).collect()
        };
        points.par_iter().map(along).collect()
    }
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
