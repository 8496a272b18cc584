//! A mixture of isotropic Gaussians whose variances are fitted.

use crate::frechet::squared_distance;
use crate::real::Rows;
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, Par};
use rayon::prelude::*;
use std::borrow::Cow;
use std::f64::consts::PI;

/// Rows whose distances are held at a time; a batch is a whole number of them.
const BLOCK: usize = 250;
/// Distances that are kept over the whole fit: 128 MB.
const KEPT: usize = 1 << 24;
/// Rows of a step of the optimizer.
const BATCH: usize = 10_000;
const EPOCHS: usize = 50;
const LEARNING_RATE: f64 = 0.5;
/// The fit ends where losses of five epochs differ by less, from the seventh epoch on.
const SETTLED: f64 = 5e-4;
/// The distance to the mean of the data counts as this share of itself, squared, in the component that all data have.
const ORIGIN_SHARE: f64 = 0.9 * 0.9;
/// A component whose logarithm is this far below the largest is no part of a sum in f64.
const NEGLIGIBLE: f64 = -45.0;

/// One Gaussian of weight `1 / M` around each of `M` centers `[M, D]`.
#[derive(Debug)]
pub(crate) struct Mixture {
    centers: Rows<'static, f64>,
    norms: Vec<f64>,
    /// Of the variances.
    logs: Vec<f64>,
}

/// What rows say of the fit: the sum of their negative log-likelihoods, and its derivatives.
struct Slope {
    nll: f64,
    logs: Vec<f64>,
    origin: f64,
}

fn square_norms(rows: &Rows<'_, f64>) -> Vec<f64> {
    rows.iter().map(|row| row.iter().map(|x| x * x).sum()).collect()
}

impl Mixture {
    /// With the variances that make `data` `[N, D]` likely, started at each center's nearest datum. While they are fitted,
    /// a further component around the data's mean gives every datum some likelihood.
    pub(crate) fn fit(centers: Rows<'static, f64>, data: &Rows<'_, f64>) -> Self {
        let (count, width) = (centers.len(), centers.width);
        let mut mixture = Self { norms: square_norms(&centers), logs: vec![0.0; count], centers };
        let firsts: Vec<usize> = (0..data.len()).step_by(BLOCK).collect();
        let kept: Vec<Mat<f64>> = match data.len() * count <= KEPT {
            true => firsts.par_iter().map(|first| mixture.squared(data, *first)).collect(),
            false => Vec::new(),
        };
        let block = |mixture: &Self, k: usize| match kept.get(k) {
            Some(squared) => Cow::Borrowed(squared),
            None => Cow::Owned(mixture.squared(data, firsts[k])),
        };
        let least = |k: usize| {
            let squared = block(&mixture, k);
            let least_of =
                |j: usize| (0..squared.ncols()).map(|i| squared[(j, i)]).fold(f64::INFINITY, f64::min);
            (0..count).map(least_of).collect::<Vec<_>>()
        };
        let smaller = |mut a: Vec<f64>, b: Vec<f64>| {
            a.iter_mut().zip(b).for_each(|(a, b)| *a = a.min(b));
            a
        };
        let least =
            (0..firsts.len()).into_par_iter().map(least).reduce(|| vec![f64::INFINITY; count], smaller);
        mixture.logs = least.into_iter().map(|d| ((d + 1e-3) / width as f64).ln()).collect();

        let mut origin_mean = vec![0.0; width];
        data.iter().for_each(|row| origin_mean.iter_mut().zip(row).for_each(|(m, x)| *m += x));
        origin_mean.iter_mut().for_each(|m| *m /= data.len() as f64);
        let origin: Vec<f64> =
            data.iter().map(|row| ORIGIN_SHARE * squared_distance(row, &origin_mean)).collect();
        // The last is the variance of the component around the mean.
        let mut adam = Adam::new(count + 1);
        let (mut origin_log, mut losses) = (0.0, Vec::new());
        let batches: Vec<Vec<usize>> =
            (0..firsts.len()).collect::<Vec<_>>().chunks(BATCH / BLOCK).map(<[usize]>::to_vec).collect();
        for epoch in 0..EPOCHS {
            let mut loss = 0.0;
            for batch in &batches {
                let gaussians = mixture.gaussians();
                let one = |k: &usize| {
                    slope(&gaussians, &block(&mixture, *k), &origin[firsts[*k]..], origin_log, width)
                };
                let parts: Vec<Slope> = batch.par_iter().map(one).collect();
                let rows: usize = batch.iter().map(|k| BLOCK.min(data.len() - firsts[*k])).sum();
                let scale = 1.0 / (rows * width) as f64;
                let mut gradient = vec![0.0; count + 1];
                for part in parts {
                    loss += part.nll * scale / batches.len() as f64;
                    let all = part.logs.iter().chain([&part.origin]);
                    gradient.iter_mut().zip(all).for_each(|(g, p)| *g += p * scale);
                }
                adam.step(&gradient, mixture.logs.iter_mut().chain([&mut origin_log]));
                mixture.logs.iter_mut().for_each(|s| *s = s.clamp(-40.0, 40.0));
            }
            losses.push(loss);
            if epoch > 5 && losses.iter().rev().take(5).all(|l| (loss - l).abs() < SETTLED) {
                break;
            }
        }
        mixture
    }

    /// Squared distances of all centers to rows `first..` of one block: `[M, B]`.
    fn squared(&self, data: &Rows<'_, f64>, first: usize) -> Mat<f64> {
        let rows = BLOCK.min(data.len() - first);
        let mut squared = Mat::<f64>::zeros(self.centers.len(), rows);
        let part = data.matrix().subrows(first, rows);
        matmul(squared.as_mut(), Accum::Replace, self.centers.matrix(), part.transpose(), -2.0, Par::Seq);
        for i in 0..rows {
            let norm: f64 = data.row(first + i).iter().map(|x| x * x).sum();
            let column = squared.col_as_slice_mut(i).iter_mut().zip(&self.norms);
            column.for_each(|(s, center)| *s = (*s + norm + center).max(0.0));
        }
        squared
    }

    /// `(a, b)` of every weighted component, whose logarithm at squared distance `d` is `b - a d`.
    fn gaussians(&self) -> Vec<(f64, f64)> {
        let half = self.centers.width as f64 / 2.0;
        let constant = half * (2.0 * PI).ln() + (self.logs.len() as f64).ln();
        self.logs.iter().map(|s| (0.5 * (-s).exp(), -half * s - constant)).collect()
    }

    /// Negative log-likelihood of every row `[N, D]`, divided by `D`.
    pub(crate) fn nll(&self, data: &Rows<'_, f64>) -> Vec<f64> {
        let gaussians = self.gaussians();
        let of_block = |first: usize| {
            let squared = self.squared(data, first);
            let one = |i: usize| {
                let (_, log_sum) = shares(&gaussians, squared.col_as_slice(i), f64::NEG_INFINITY);
                -log_sum / self.centers.width as f64
            };
            (0..squared.ncols()).map(one).collect::<Vec<_>>()
        };
        let firsts: Vec<usize> = (0..data.len()).step_by(BLOCK).collect();
        firsts.into_par_iter().flat_map_iter(of_block).collect()
    }
}

/// The share of every component in the likelihood of a datum, and the logarithm of that likelihood; `further` is the
/// logarithm of a component beside them.
fn shares(gaussians: &[(f64, f64)], squared: &[f64], further: f64) -> (Vec<f64>, f64) {
    let mut shares: Vec<f64> = gaussians.iter().zip(squared).map(|((a, b), d)| b - a * d).collect();
    let largest = shares.iter().copied().fold(further, f64::max);
    let mut total = (further - largest).exp();
    for share in &mut shares {
        *share = if *share - largest > NEGLIGIBLE { (*share - largest).exp() } else { 0.0 };
        total += *share;
    }
    shares.iter_mut().for_each(|s| *s /= total);
    (shares, largest + total.ln())
}

/// The slope at the data of one block, whose squared distances are `[M, B]` and, to the mean of all data, `origin`.
fn slope(
    gaussians: &[(f64, f64)],
    squared: &Mat<f64>,
    origin: &[f64],
    origin_log: f64,
    width: usize,
) -> Slope {
    let half = width as f64 / 2.0;
    let mut slope = Slope { nll: 0.0, logs: vec![0.0; gaussians.len()], origin: 0.0 };
    for (i, origin) in origin.iter().enumerate().take(squared.ncols()) {
        let column = squared.col_as_slice(i);
        let origin = 0.5 * origin * (-origin_log).exp();
        let of_origin = -origin - half * origin_log - half * (2.0 * PI).ln();
        let (shares, log_sum) = shares(gaussians, column, of_origin);
        slope.nll -= log_sum;
        for (j, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
            slope.logs[j] -= share * (gaussians[j].0 * column[j] - half);
        }
        slope.origin -= (of_origin - log_sum).exp() * (origin - half);
    }
    slope
}

/// Adam with its usual constants; Kingma and Ba 2015, algorithm 1.
struct Adam {
    steps: i32,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Adam {
    fn new(count: usize) -> Self {
        Self { steps: 0, first: vec![0.0; count], second: vec![0.0; count] }
    }

    fn step<'a>(&mut self, gradient: &[f64], values: impl Iterator<Item = &'a mut f64>) {
        self.steps += 1;
        let (first_scale, second_scale) = (1.0 - 0.9f64.powi(self.steps), 1.0 - 0.999f64.powi(self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((value, g), (first, second)) in values.zip(gradient).zip(moments) {
            *first = 0.9 * *first + 0.1 * g;
            *second = 0.999 * *second + 0.001 * g * g;
            *value -= LEARNING_RATE * (*first / first_scale) / ((*second / second_scale).sqrt() + 1e-8);
        }
    }
}
