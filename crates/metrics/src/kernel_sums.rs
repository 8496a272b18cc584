//! Sums of a kernel over all pairs of two sets, a block at a time.

use crate::real::{Real, Rows};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};
use rayon::prelude::*;

/// Most rows of a block: two of 2048 f32 numbers a row and their product fit a core's cache.
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

/// Rows in blocks of one size but for the last.
#[derive(Clone, Copy)]
struct Blocks<'a, 'r, T: Real> {
    rows: &'a Rows<'r, T>,
    size: usize,
}

impl<'a, 'r, T: Real> Blocks<'a, 'r, T> {
    fn of(rows: &'a Rows<'r, T>) -> Self {
        Self { rows, size: rows.len().div_ceil(rows.len().div_ceil(BLOCK)) }
    }

    fn count(&self) -> usize {
        self.rows.len().div_ceil(self.size)
    }

    fn first(&self, i: usize) -> usize {
        i * self.size
    }

    fn matrix(&self, i: usize) -> MatRef<'a, T> {
        let first = self.first(i);
        self.rows.matrix().subrows(first, self.size.min(self.rows.len() - first))
    }
}

/// The kernel of every pair of two blocks; 0 for a row with itself where both are the same.
fn values<T: Real>(x: MatRef<'_, T>, y: MatRef<'_, T>, same: bool, kernel: &impl Kernel<T>) -> Mat<f64> {
    let mut product = Mat::<T>::zeros(x.nrows(), y.nrows());
    matmul(product.as_mut(), Accum::Replace, x, y.transpose(), T::from_f64(1.0), Par::Seq);
    let mut values = Mat::<f64>::zeros(x.nrows(), y.nrows());
    for j in 0..y.nrows() {
        let column = values.col_as_slice_mut(j).iter_mut().zip(product.col_as_slice(j));
        column.for_each(|(value, p)| *value = kernel.of(*p));
        if same {
            values[(j, j)] = 0.0;
        }
    }
    values
}

/// Shows the kernel of all pairs of two sets block by block, of one set (`y` is none) each pair once, and gives what came of
/// it in order.
fn each_block<T: Real, P: Send>(
    x: Blocks<'_, '_, T>,
    y: Option<Blocks<'_, '_, T>>,
    kernel: &impl Kernel<T>,
    show: impl Fn(usize, usize, Mat<f64>) -> P + Sync,
) -> Vec<(usize, usize, P)> {
    let columns = |i: usize| y.map_or(i + 1, |y| y.count());
    let pairs: Vec<_> = (0..x.count()).flat_map(|i| (0..columns(i)).map(move |j| (i, j))).collect();
    let one = |(i, j)| {
        let same = y.is_none() && i == j;
        (i, j, show(i, j, values(x.matrix(i), y.unwrap_or(x).matrix(j), same, kernel)))
    };
    pairs.into_par_iter().map(one).collect()
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

fn row_sums(values: &Mat<f64>) -> Vec<f64> {
    let mut sums = vec![0.0; values.nrows()];
    for j in 0..values.ncols() {
        add(&mut sums, values.col_as_slice(j));
    }
    sums
}

fn column_sums(values: &Mat<f64>) -> Vec<f64> {
    (0..values.ncols()).map(|j| lanes(values.col_as_slice(j))).collect()
}

/// A sum in eight lanes, which the compiler may keep in vectors.
fn lanes(values: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().sum();
    chunks.for_each(|chunk| add(&mut sums, chunk));
    sums.iter().sum::<f64>() + rest
}

fn add(sums: &mut [f64], more: &[f64]) {
    sums.iter_mut().zip(more).for_each(|(s, m)| *s += m);
}

/// Over all pairs of different rows of one set: each pair's kernel is computed once.
pub(crate) fn within<T: Real>(x: &Rows<'_, T>, kernel: &impl Kernel<T>) -> Sums {
    let blocks = Blocks::of(x);
    let mut rows = vec![0.0; x.len()];
    let both = |_, _, values: Mat<f64>| (row_sums(&values), column_sums(&values));
    for (i, j, (of_rows, of_columns)) in each_block(blocks, None, kernel, both) {
        add(&mut rows[blocks.first(i)..], &of_rows);
        if i != j {
            add(&mut rows[blocks.first(j)..], &of_columns);
        }
    }
    Sums { rows, columns: x.len() }
}

/// Over all pairs of rows of two sets.
pub(crate) fn across<T: Real>(x: &Rows<'_, T>, y: &Rows<'_, T>, kernel: &impl Kernel<T>) -> Sums {
    let (tall, wide) = (Blocks::of(x), Blocks::of(y));
    let mut rows = vec![0.0; x.len()];
    for (i, _, more) in each_block(tall, Some(wide), kernel, |_, _, values| row_sums(&values)) {
        add(&mut rows[tall.first(i)..], &more);
    }
    Sums { rows, columns: y.len() }
}

/// Total of the kernel over the pairs of each of several subsets: of different rows of `x` where there is no `y`. Every pair
/// of the sets is computed once, however many subsets it is in.
pub(crate) fn subset_totals<T: Real>(
    x: (&Rows<'_, T>, &[Vec<usize>]),
    y: Option<(&Rows<'_, T>, &[Vec<usize>])>,
    kernel: &impl Kernel<T>,
) -> Vec<f64> {
    let tall = Blocks::of(x.0);
    let wide = y.map(|(rows, _)| Blocks::of(rows));
    let members = |blocks: Blocks<'_, '_, T>, subsets: &[Vec<usize>]| {
        let mut members = vec![Mat::<f64>::zeros(blocks.size, subsets.len()); blocks.count()];
        for (k, subset) in subsets.iter().enumerate() {
            subset.iter().for_each(|i| members[i / blocks.size][(i % blocks.size, k)] = 1.0);
        }
        members
    };
    let of_rows = members(tall, x.1);
    let of_columns = y.zip(wide).map(|((_, subsets), blocks)| members(blocks, subsets));
    let of_columns = of_columns.as_ref().unwrap_or(&of_rows);
    let show = |i: usize, j: usize, values: Mat<f64>| {
        let (rows, columns) = (of_rows[i].as_ref(), of_columns[j].subrows(0, values.ncols()));
        let mut sums = Mat::<f64>::zeros(values.nrows(), rows.ncols());
        matmul(sums.as_mut(), Accum::Replace, &values, columns, 1.0, Par::Seq);
        let count = if y.is_none() && i != j { 2.0 } else { 1.0 };
        let one = |k: usize| {
            let each = sums.col_as_slice(k).iter().zip(rows.col(k).iter());
            each.map(|(sum, member)| count * sum * member).sum()
        };
        (0..rows.ncols()).map(one).collect::<Vec<f64>>()
    };
    let mut totals = vec![0.0; x.1.len()];
    each_block(tall, wide, kernel, show).iter().for_each(|(_, _, more)| add(&mut totals, more));
    totals
}
