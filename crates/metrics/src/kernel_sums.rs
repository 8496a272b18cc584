//! Sums of a kernel over all pairs of two sets, a block at a time.

use crate::real::{Real, Rows};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

/// Rows of a block: two of 2048 f32 numbers a row and their product fit a core's cache.
const BLOCK: usize = 256;

/// A function of the inner product of two rows.
pub(crate) trait Kernel<T>: Sync {
    fn of(&self, product: T) -> f64;
}

/// `(x.y / D + 1)^3`.
pub(crate) struct Polynomial<T> {
    scale: T,
    one: T,
}

impl<T: Real> Polynomial<T> {
    pub(crate) fn new(width: usize) -> Self {
        Self { scale: T::from_f64(1.0 / width as f64), one: T::from_f64(1.0) }
    }
}

impl<T: Real> Kernel<T> for Polynomial<T> {
    fn of(&self, product: T) -> f64 {
        let base = product * self.scale + self.one;
        (base * base * base).into()
    }
}

/// `exp(-|x - y|^2 / (2 width^2))` of unit rows.
pub(crate) struct Radial {
    pub(crate) width: f64,
}

impl<T: Real> Kernel<T> for Radial {
    fn of(&self, product: T) -> f64 {
        (-(1.0 - product.into()).max(0.0) / (self.width * self.width)).exp()
    }
}

/// Sums over the other set, one for each row.
pub(crate) struct Sums {
    pub(crate) rows: Vec<f64>,
    /// Size of the other set.
    pub(crate) columns: usize,
}

impl Sums {
    pub(crate) fn total(&self) -> f64 {
        self.rows.iter().sum()
    }
}

/// What one block adds to its rows and to its columns.
type Part = (Vec<f64>, Vec<f64>);

/// Kernel values of a block of pairs, summed by row and by column; `[I, D]`, `[J, D]`. Where both are the same rows, pairs
/// of a row with itself are left out.
fn block<T: Real>(x: MatRef<'_, T>, y: MatRef<'_, T>, same: bool, kernel: &impl Kernel<T>) -> Part {
    let mut product = Mat::<T>::zeros(x.nrows(), y.nrows());
    matmul(product.as_mut(), Accum::Replace, x, y.transpose(), T::from_f64(1.0), Par::Seq);
    let (mut rows, mut columns) = (vec![0.0; x.nrows()], vec![0.0; y.nrows()]);
    let mut values = vec![0.0; x.nrows()];
    for (j, column) in columns.iter_mut().enumerate() {
        for ((value, row), p) in values.iter_mut().zip(&mut rows).zip(product.col_as_slice(j)) {
            *value = kernel.of(*p);
            *row += *value;
        }
        *column = lanes(&values);
        if same {
            rows[j] -= values[j];
            *column -= values[j];
        }
    }
    (rows, columns)
}

/// A sum in eight lanes, which the compiler may keep in vectors.
fn lanes(values: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += v);
    }
    sums.iter().sum::<f64>() + rest
}

fn part<'a, T: Real>(rows: &'a Rows<'_, T>, i: usize) -> MatRef<'a, T> {
    let first = i * BLOCK;
    rows.matrix().subrows(first, BLOCK.min(rows.len() - first))
}

fn add(sums: &mut [f64], i: usize, more: &[f64]) {
    sums[i * BLOCK..].iter_mut().zip(more).for_each(|(s, m)| *s += m);
}

/// Over all pairs of different rows of one set: each pair's kernel is computed once.
pub(crate) fn within<T: Real>(x: &Rows<'_, T>, kernel: &impl Kernel<T>) -> Sums {
    let blocks = x.len().div_ceil(BLOCK);
    let pairs: Vec<(usize, usize)> = (0..blocks).flat_map(|i| (0..=i).map(move |j| (i, j))).collect();
    let one = |&(i, j): &(usize, usize)| block(part(x, i), part(x, j), i == j, kernel);
    let parts: Vec<Part> = pairs.par_iter().map(one).collect();
    let mut rows = vec![0.0; x.len()];
    for ((i, j), (of_rows, of_columns)) in pairs.into_iter().zip(parts) {
        add(&mut rows, i, &of_rows);
        if i != j {
            add(&mut rows, j, &of_columns);
        }
    }
    Sums { rows, columns: x.len() }
}

/// Over all pairs of rows of two sets.
pub(crate) fn across<T: Real>(x: &Rows<'_, T>, y: &Rows<'_, T>, kernel: &impl Kernel<T>) -> Sums {
    let (tall, wide) = (x.len().div_ceil(BLOCK), y.len().div_ceil(BLOCK));
    let pairs: Vec<(usize, usize)> = (0..tall).flat_map(|i| (0..wide).map(move |j| (i, j))).collect();
    let one = |&(i, j): &(usize, usize)| block(part(x, i), part(y, j), false, kernel).0;
    let parts: Vec<Vec<f64>> = pairs.par_iter().map(one).collect();
    let mut rows = vec![0.0; x.len()];
    pairs.into_iter().zip(parts).for_each(|((i, _), more)| add(&mut rows, i, &more));
    Sums { rows, columns: y.len() }
}
