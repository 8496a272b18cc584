//! The Vendi score: how many different samples a set is worth.

use crate::estimate::{NORMAL, influence_error};
use crate::linear::{add_outer_products, eigenvectors, outer_products};
use crate::real::{Directions, Real, Rows};
use crate::{Error, Interval};
use faer::Mat;
use ndarray::ArrayView2;

/// Rows that are in f64 at a time.
const BLOCK: usize = 512;

/// The exponential of the entropy of the eigenvalues of `X X' / N`, where the rows of `X` `[N, D]` are scaled to length 1;
/// Friedman and Dieng 2023, definition 3.1, with the cosine as similarity. From 1 (all alike) to `min(N, D)`.
///
/// The smaller of the `[N, N]` and the `[D, D]` matrix is used: both have the same eigenvalues but for zeros.
///
/// The interval is that of the entropy's influences (`-x' ln(rho) x` minus its mean). It is about the expected score of a set
/// of this size: fewer samples score lower, most where `N` is not far above `D`.
///
/// Errors: fewer than three rows, a row of zeros.
pub fn vendi_score<T: Real>(features: ArrayView2<'_, T>) -> Result<Interval, Error> {
    let rows = Rows::new("features", features, features.ncols(), 1)?;
    if rows.len() < 3 {
        return Err(Error::TooFew { set: "features", found: rows.len(), needed: 3 });
    }
    let n = rows.len() as f64;
    let weights = if rows.width < rows.len() {
        by_features(&Directions::new("features", &rows)?)?
    } else {
        by_samples(&rows.to_f64().unit("features")?)?
    };
    // `x' ln(rho) x` of each sample; its mean is the trace of rho ln(rho).
    let entropy = -weights.iter().sum::<f64>() / n;
    let error = influence_error(&weights);
    let score = Interval::around(entropy, error, NORMAL);
    Ok(Interval { value: score.value.exp(), lower: score.lower.exp(), upper: score.upper.exp() })
}

/// Logarithms of eigenvalues, 0 for those that are zero but for rounding: their eigenvectors have no share in any sample.
fn logarithms(values: &[f64]) -> Vec<f64> {
    let least = values.len() as f64 * f64::EPSILON;
    values.iter().map(|v| if *v > least { v.ln() } else { 0.0 }).collect()
}

/// From `X' X / N = V L V'`: `sum_k (x.v_k)^2 ln l_k`.
fn by_features<T: Real>(directions: &Directions<'_, '_, T>) -> Result<Vec<f64>, Error> {
    let (n, width) = (directions.rows.len(), directions.rows.width);
    let blocks = || (0..n).step_by(BLOCK).map(|first| directions.units(first, n.min(first + BLOCK)));
    let mut gram = Mat::zeros(width, width);
    blocks().for_each(|x| add_outer_products(&mut gram, x.as_ref()));
    let (values, vectors) = eigenvectors(&(faer::Scale(1.0 / n as f64) * gram))?;
    let logs = logarithms(&values);
    let of_block =
        |x: Mat<f64>| weighted(&(vectors.transpose() * x), &logs, |share, _| share * share, &values);
    Ok(blocks().flat_map(of_block).collect())
}

/// From `X X' / N = U L U'`: `x_i.v_k = (N l_k)^{1/2} u_ik`.
fn by_samples(rows: &Rows<'_, f64>) -> Result<Vec<f64>, Error> {
    let n = rows.len() as f64;
    let (values, vectors) = eigenvectors(&(faer::Scale(1.0 / n) * outer_products(rows.matrix())))?;
    let shares = vectors.transpose().to_owned();
    Ok(weighted(&shares, &logarithms(&values), |share, value| n * value * share * share, &values))
}

/// For every column `i` of `shares` `[K, N]`: the sum over `k` of `weight(shares[k, i], values[k]) * logs[k]`.
fn weighted(shares: &Mat<f64>, logs: &[f64], weight: impl Fn(f64, f64) -> f64, values: &[f64]) -> Vec<f64> {
    let one = |i: usize| {
        let each = shares.col_as_slice(i).iter().zip(values).zip(logs);
        each.map(|((share, value), log)| weight(*share, *value) * log).sum()
    };
    (0..shares.ncols()).map(one).collect()
}
