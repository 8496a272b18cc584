//! The energy distance of two sets.

use crate::Error;
use heldout_core::Result;
use tch::{Kind, Tensor};

/// Distances that are held at a time.
const PAIRS: i64 = 1 << 20;

/// `2 E|X - Y| - E|X - X'| - E|Y - Y'|` of sets `[N, ..]` and `[M, ..]`, Euclidean distances of pixels or features; Székely
/// and Rizzo 2013, Eq. 2. 0 for one distribution, positive for two.
///
/// Means of pairs are of different members (U-statistics), so that it is unbiased, and of two samples of one distribution as
/// often below 0 as above. Distances are differences in f64; memory does not grow with the sets.
pub fn energy_distance(x: &Tensor, y: &Tensor) -> Result<f64> {
    in_chunks(x, y, (PAIRS / x.size()[0].max(y.size()[0]).max(1)).max(1))
}

/// With distances of `rows` rows at a time.
pub(crate) fn in_chunks(x: &Tensor, y: &Tensor, rows: i64) -> Result<f64> {
    let (x, y) = (flat(x)?, flat(y)?);
    let width = x.size()[1];
    check("x", &x, width)?;
    check("y", &y, width)?;
    let sum = |a: &Tensor, b: &Tensor| -> Result<f64> {
        let (mut total, n) = (0.0, a.size()[0]);
        for first in (0..n).step_by(rows as usize) {
            let part = a.narrow(0, first, rows.min(n - first));
            // Mode 2: differences, not a product, which would lose the digits of near pairs.
            total += Tensor::f_cdist(&part, b, 2.0, 2i64)?.sum(Kind::Double).double_value(&[]);
        }
        Ok(total)
    };
    let (n, m) = (x.size()[0] as f64, y.size()[0] as f64);
    Ok(2.0 * sum(&x, &y)? / (n * m) - sum(&x, &x)? / (n * (n - 1.0)) - sum(&y, &y)? / (m * (m - 1.0)))
}

/// `[N, ..]` as rows in f64.
fn flat(x: &Tensor) -> Result<Tensor> {
    Ok(x.detach().f_reshape([x.size()[0], -1])?.to_kind(Kind::Double))
}

fn check(set: &'static str, rows: &Tensor, width: i64) -> Result<()> {
    let (found, expected) = (rows.size()[1] as usize, width as usize);
    if found != expected {
        return Err(Error::Width { set, found, expected }.into());
    }
    let found = rows.size()[0] as usize;
    if found < 2 {
        return Err(Error::TooFew { set, found, needed: 2 }.into());
    }
    let finite = rows.isfinite().all_dim(1, false);
    match finite.all().int64_value(&[]) {
        1 => Ok(()),
        _ => Err(Error::NotFinite {
            set,
            row: finite.to_kind(Kind::Int).argmin(0, false).int64_value(&[]) as usize,
        }
        .into()),
    }
}
