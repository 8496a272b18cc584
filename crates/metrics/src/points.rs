//! Rows prepared for distances: products in f32 propose pairs, differences in f64 decide them.

use crate::{Error, Real};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, CowArray, Ix2, s};
use rayon::prelude::*;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};
use std::ops::Range;

/// Half the distance from 1 to the next f32: the largest relative error of one rounding.
const ROUNDING: f32 = f32::EPSILON / 2.0;

/// Rows of one task when rows are prepared.
const ROWS: usize = 256;

/// Feature rows `[N, D]`, prepared once for many searches.
#[derive(Debug)]
pub struct Points<'a, T> {
    rows: CowArray<'a, T, Ix2>,
    /// What is taken off before products, so that an offset costs no digits; `None` where that is nothing.
    center: Option<Array1<f64>>,
    /// The rows less the centre where they are not f32: of f32 no copy is kept.
    centered: Option<Array2<f32>>,
    /// `(1 - slack) |x|^2` of the centred rows.
    low: Vec<f32>,
}

impl<'a, T: Real> Points<'a, T> {
    /// Prepares `rows`, which `set` names in errors. Sets that are compared share their `center` `[D]`: near the mean of
    /// both is best, any is right.
    ///
    /// Errors: a number that is not finite; rows of another width than the centre.
    pub fn new(
        set: &'static str,
        rows: impl Into<CowArray<'a, T, Ix2>>,
        center: ArrayView1<'_, f64>,
    ) -> Result<Self, Error> {
        let rows = rows.into();
        check(set, rows.view(), center.len())?;
        Ok(Self::prepare(rows, center))
    }

    /// Of rows that were looked at before.
    pub(crate) fn prepare(rows: impl Into<CowArray<'a, T, Ix2>>, center: ArrayView1<'_, f64>) -> Self {
        let rows = rows.into();
        let in_place = rows.is_standard_layout() && T::as_f32(rows.view()).is_some();
        let centered = (!in_place).then(|| {
            let mut centered = Array2::<f32>::zeros(rows.raw_dim());
            let parts = centered.axis_chunks_iter_mut(Axis(0), ROWS).into_par_iter();
            parts.zip(rows.axis_chunks_iter(Axis(0), ROWS).into_par_iter()).for_each(|(mut out, rows)| {
                for (mut out, row) in out.outer_iter_mut().zip(rows.outer_iter()) {
                    out.iter_mut().zip(row).zip(center).for_each(|((out, x), c)| *out = less(x, c));
                }
            });
            centered
        });
        let keep = 1.0 - slack(rows.ncols());
        let norm = |row: ArrayView1<'_, T>| {
            row.iter().zip(center).map(|(x, c)| f64::from(less(x, c)).powi(2)).sum::<f64>()
        };
        let parts = rows.axis_chunks_iter(Axis(0), ROWS).into_par_iter();
        let lows = parts
            .flat_map_iter(|part| part.outer_iter().map(|row| keep * norm(row) as f32).collect::<Vec<_>>());
        let low = lows.collect();
        let center = center.iter().any(|c| *c != 0.0).then(|| center.to_owned());
        Self { rows, center, centered, low }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.rows.nrows()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.nrows() == 0
    }

    /// As given.
    pub fn rows(&self) -> ArrayView2<'_, T> {
        self.rows.view()
    }

    /// Some centred rows, one after the other; `buffer` is where they are made if they are nowhere.
    pub(crate) fn block<'s>(&'s self, rows: Range<usize>, buffer: &'s mut Vec<f32>) -> &'s [f32] {
        let made = self.centered.as_ref().map(|all| all.view());
        let singles = made.or_else(|| T::as_f32(self.rows.view()));
        let part = singles.and_then(|all| all.slice_move(s![rows, ..]).to_slice());
        let part = part.unwrap_or_else(|| unreachable!("rows in one piece, in f32 or with a copy in it"));
        let Some(center) = self.center.as_ref().filter(|_| self.centered.is_none()) else { return part };
        buffer.clear();
        for row in part.chunks_exact(center.len().max(1)) {
            buffer.extend(row.iter().zip(center).map(|(x, c)| less(x, c)));
        }
        buffer
    }

    pub(crate) fn low(&self) -> &[f32] {
        &self.low
    }

    /// `|x_i - y_j|^2` by differences in f64: the same whichever way round, 0 for equal rows.
    pub(crate) fn squared(&self, i: usize, other: &Points<'_, T>, j: usize) -> f64 {
        squared_distance(self.rows.row(i), other.rows.row(j))
    }
}

/// Rounded to f32.
fn less<T: Real>(x: &T, center: &f64) -> f32 {
    (wide(x) - center) as f32
}

/// In f64, exact.
fn wide<T: Real>(x: &T) -> f64 {
    (*x).into()
}

/// An offset whose square is this many times the mean square around it, or less, costs hardly a digit.
const SHORT: f64 = 4.0;

/// What to take off the rows before products: their mean in f64; or zeros where that is short beside the spread of the rows,
/// since rows in f32 are then multiplied as they are.
pub fn center<T: Real>(rows: ArrayView2<'_, T>) -> Array1<f64> {
    let sums = rows.axis_chunks_iter(Axis(0), ROWS).into_par_iter().map(|rows| {
        let (mut sum, mut squares) = (Array1::<f64>::zeros(rows.ncols()), 0.0);
        for row in rows.outer_iter() {
            sum.zip_mut_with(&row, |s, x| *s += wide(x));
            squares += row.iter().map(|x| wide(x) * wide(x)).sum::<f64>();
        }
        (sum, squares)
    });
    // In the order of the rows, so that the last bit does not hang on the number of threads.
    let sums: Vec<(Array1<f64>, f64)> = sums.collect();
    let n = rows.nrows().max(1) as f64;
    let mean = sums.iter().fold(Array1::<f64>::zeros(rows.ncols()), |a, (sum, _)| a + sum) / n;
    let offset = mean.dot(&mean);
    let spread = sums.iter().map(|(_, squares)| squares).sum::<f64>() / n - offset;
    if offset <= SHORT * spread { Array1::zeros(rows.ncols()) } else { mean }
}

/// A number for content: equal for equal values in one order. 0 and -0 are one number.
pub(crate) fn hash<T: Real>(values: impl Iterator<Item = T>) -> u64 {
    let mut hasher = DefaultHasher::new();
    values.for_each(|x| hasher.write_u64((wide(&x) + 0.0).to_bits()));
    hasher.finish()
}

/// For each row the first that equals it; `None` where all differ.
pub(crate) fn firsts<T: Real>(rows: ArrayView2<'_, T>) -> Option<Vec<u32>> {
    let hashes = rows.axis_iter(Axis(0)).into_par_iter().map(|row| hash(row.iter().copied()));
    let hashes: Vec<u64> = hashes.collect();
    let mut seen = HashMap::new();
    let first = |(i, hash): (usize, u64)| *seen.entry(hash).or_insert(i as u32);
    let firsts: Vec<u32> = hashes.into_iter().enumerate().map(first).collect();
    (seen.len() < firsts.len()).then_some(firsts)
}

/// How many rows differ.
pub(crate) fn count_distinct(firsts: Option<&[u32]>, rows: usize) -> usize {
    firsts
        .map_or(rows, |firsts| firsts.iter().enumerate().filter(|(i, first)| *i == **first as usize).count())
}

/// How far `low(x) + low(y) - 2 x y` may lie below the squared distance, as a share of `|x|^2 + |y|^2`.
///
/// A sum of `D` products in f32, in any order, is off by at most `D u |x| |y|` (Higham 2002, Eq. 3.5; u the rounding), and
/// `2 |x| |y| <= |x|^2 + |y|^2`; rounding the centred rows costs `4 u`, the norms and outer sums less than `8 u`.
fn slack(width: usize) -> f32 {
    1.02 * (width as f32 + 16.0) * ROUNDING
}

/// Every row finite, and of this width.
pub(crate) fn check<T: Real>(set: &'static str, rows: ArrayView2<'_, T>, width: usize) -> Result<(), Error> {
    if rows.ncols() != width {
        return Err(Error::Width { set, found: rows.ncols(), expected: width });
    }
    let bad =
        |rows: ArrayView2<'_, T>| rows.outer_iter().position(|r| !r.iter().all(|x| wide(x).is_finite()));
    let chunks = rows.axis_chunks_iter(Axis(0), ROWS).into_par_iter().enumerate();
    match chunks.filter_map(|(i, rows)| Some(i * ROWS + bad(rows)?)).min() {
        Some(row) => Err(Error::NotFinite { set, row }),
        None => Ok(()),
    }
}

/// Squared Euclidean distance in f64, a fixed order of summation.
pub(crate) fn squared_distance<T: Real>(a: ArrayView1<'_, T>, b: ArrayView1<'_, T>) -> f64 {
    match (a.as_slice(), b.as_slice()) {
        (Some(a), Some(b)) => squared_distance_of(a, b),
        _ => squared_distance_of(&a.to_vec(), &b.to_vec()),
    }
}

fn squared_distance_of<T: Real>(a: &[T], b: &[T]) -> f64 {
    const LANES: usize = 8;
    let mut sums = [0.0f64; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a.remainder().iter().zip(b.remainder()).map(|(x, y)| square(*x, *y)).sum();
    for (a, b) in a.zip(b) {
        for ((sum, x), y) in sums.iter_mut().zip(a).zip(b) {
            *sum += square(*x, *y);
        }
    }
    sums.iter().sum::<f64>() + rest
}

fn square<T: Real>(x: T, y: T) -> f64 {
    let difference = wide(&x) - wide(&y);
    difference * difference
}
