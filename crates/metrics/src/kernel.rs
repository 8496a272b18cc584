//! Kernel distances: the squared maximum mean discrepancy of two sets of features.

use crate::draws::{generator, without_replacement};
use crate::estimate::{NORMAL, influence_error, mean, variance};
use crate::kernel_sums::{Polynomial, Radial, Sums, across, subset_totals, within};
use crate::real::{Real, Rows};
use crate::{Error, Interval};
use ndarray::ArrayView2;
use rayon::prelude::*;
use std::sync::OnceLock;

/// Which samples a kernel distance compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subsets {
    /// All of both sets, once. No draw, and the least variance.
    All,
    /// The mean over random subsets, as is usual for tables: drawn without replacement by the seed, from each set.
    Random {
        /// How many; 100 is usual.
        count: usize,
        /// Of this many samples of each set; 1000 is usual.
        size: usize,
        /// Of the draws.
        seed: u64,
    },
}

/// The kernel distance of features `[N, D]` and `[M, D]`, KID where they are the Inception network's: the unbiased estimate
/// of the squared MMD with `(x.y / D + 1)^3`; Bińkowski et al. 2018, section 4.
///
/// Where the sets are so small that subsets share most of their pairs, each pair is computed once for all subsets.
/// Products are in the type of the features, sums in f64; of two sets of one distribution it is as often below 0 as above.
///
/// The interval of [`Subsets::All`] is that of the mean of the generated samples' influences (Hájek projection), with the
/// reference as given. That of subsets is from their spread, as far as it goes: subsets of more than half of a set overlap
/// too much to tell, and get that of the influences instead.
///
/// Errors: a subset of fewer than two, or of more than a set has; f32 whose third powers are none.
pub fn kernel_distance<T: Real>(
    generated: ArrayView2<'_, T>,
    reference: ArrayView2<'_, T>,
    subsets: Subsets,
) -> Result<Interval, Error> {
    kernel_distance_beside(generated, reference, subsets, &OnceLock::new())
}

/// As [`kernel_distance`]; the total over pairs of the reference is kept where it is asked for.
pub(crate) fn kernel_distance_beside<T: Real>(
    generated: ArrayView2<'_, T>,
    reference: ArrayView2<'_, T>,
    subsets: Subsets,
    kept: &OnceLock<f64>,
) -> Result<Interval, Error> {
    let x = Rows::new("generated", generated, reference.ncols(), 2)?;
    let y = Rows::new("reference", reference, reference.ncols(), 2)?;
    let found = match subsets {
        Subsets::All => unbiased_with_interval(&x, &y, kept),
        Subsets::Random { count, size, seed } => of_subsets(&x, &y, count, size, seed)?,
    };
    match found.value.is_finite() && found.lower.is_finite() {
        true => Ok(found),
        false => Err(Error::Overflow { what: "kernel distance" }),
    }
}

fn of_subsets<T: Real>(
    x: &Rows<'_, T>,
    y: &Rows<'_, T>,
    count: usize,
    size: usize,
    seed: u64,
) -> Result<Interval, Error> {
    let smaller = x.len().min(y.len());
    if size < 2 || size > smaller {
        let reason = format!("{size}, where 2 to {smaller} (the size of the smaller set) are possible");
        return Err(Error::Setting { setting: "subset size", reason });
    }
    if count == 0 {
        return Err(Error::Setting { setting: "subsets", reason: "0, where at least 1 is needed".into() });
    }
    let draw = |k: usize| {
        let mut rng = generator(seed, k as u64);
        let of_x = without_replacement(&mut rng, x.len(), size);
        (of_x, without_replacement(&mut rng, y.len(), size))
    };
    let (of_x, of_y): (Vec<_>, Vec<_>) = (0..count).map(draw).unzip();
    // Pairs to compute, half of them of one set, if every pair of the sets is computed once; or each subset's.
    let once = (x.len() + y.len()).pow(2) / 2;
    let values = match once <= count * 2 * size * size {
        true => shared(x, y, &of_x, &of_y),
        false => one_by_one(x, y, &of_x, &of_y),
    };
    let value = mean(&values);
    if 2 * size > smaller || count < 2 {
        let kernel = Polynomial::new(x.width);
        let influence = influences(&within(x, &kernel).rows, x.len() - 1, &across(x, y, &kernel));
        return Ok(Interval::around(value, influence_error(&influence), NORMAL));
    }
    // Subsets without replacement vary by the share (1 - size / smaller) of what independent sets of their size would.
    let whole = variance(&values, 1) * size as f64 / (smaller - size) as f64;
    Ok(Interval::around(value, whole.sqrt(), NORMAL))
}

/// The estimate of each pair of subsets, from the pairs of the whole sets.
pub(crate) fn shared<T: Real>(
    x: &Rows<'_, T>,
    y: &Rows<'_, T>,
    of_x: &[Vec<usize>],
    of_y: &[Vec<usize>],
) -> Vec<f64> {
    let kernel = Polynomial::new(x.width);
    let own = subset_totals((x, of_x), None, &kernel);
    let other = subset_totals((y, of_y), None, &kernel);
    let cross = subset_totals((x, of_x), Some((y, of_y)), &kernel);
    let sizes = of_x.iter().zip(of_y).map(|(a, b)| (a.len(), b.len()));
    let totals = own.into_iter().zip(other).zip(cross);
    sizes.zip(totals).map(|((n, m), ((own, other), cross))| unbiased((own, n), (other, m), cross)).collect()
}

/// As [`shared`], from the pairs of each subset.
pub(crate) fn one_by_one<T: Real>(
    x: &Rows<'_, T>,
    y: &Rows<'_, T>,
    of_x: &[Vec<usize>],
    of_y: &[Vec<usize>],
) -> Vec<f64> {
    let kernel = Polynomial::new(x.width);
    let one = |(a, b): (&Vec<usize>, &Vec<usize>)| {
        let (x, y) = (x.select(a), y.select(b));
        let total = |of: &Rows<'_, T>| (within(of, &kernel).total(), of.len());
        unbiased(total(&x), total(&y), across(&x, &y, &kernel).total())
    };
    of_x.par_iter().zip(of_y).map(one).collect()
}

/// From the total kernel of different rows of each set and their number, and the total across.
fn unbiased((own, n): (f64, usize), (other, m): (f64, usize), cross: f64) -> f64 {
    own / (n * (n - 1)) as f64 + other / (m * (m - 1)) as f64 - 2.0 * cross / (n * m) as f64
}

fn unbiased_with_interval<T: Real>(x: &Rows<'_, T>, y: &Rows<'_, T>, kept: &OnceLock<f64>) -> Interval {
    let kernel = Polynomial::new(x.width);
    let (own, cross) = (within(x, &kernel), across(x, y, &kernel));
    let other = *kept.get_or_init(|| within(y, &kernel).total());
    let influence = influences(&own.rows, x.len() - 1, &cross);
    let value = unbiased((own.total(), x.len()), (other, y.len()), cross.total());
    Interval::around(value, influence_error(&influence), NORMAL)
}

/// Of each generated sample, up to a constant: twice its mean kernel with the others minus that with the reference.
fn influences(own: &[f64], others: usize, cross: &Sums) -> Vec<f64> {
    let each = own.iter().zip(&cross.rows);
    each.map(|(own, other)| 2.0 * (own / others as f64 - other / cross.columns as f64)).collect()
}

/// CMMD, where the features are CLIP's image embeddings: 1000 times the squared MMD of unit rows with a Gaussian kernel of
/// width 10, its biased estimate (pairs of a sample with itself count); Jayasumana et al. 2024.
///
/// `[N, D]` and `[M, D]`; the interval is the one of the samples' influences, with the reference as given. Biased upwards by
/// about `1000 / N`, times what is left of the kernel's variance.
pub fn cmmd<T: Real>(generated: ArrayView2<'_, T>, reference: ArrayView2<'_, T>) -> Result<Interval, Error> {
    let x = Rows::new("generated", generated, reference.ncols(), 2)?.unit("generated")?;
    let y = Rows::new("reference", reference, reference.ncols(), 2)?.unit("reference")?;
    let kernel = Radial { width: 10.0 };
    let (own, other, cross) = (within(&x, &kernel), within(&y, &kernel), across(&x, &y, &kernel));
    // A unit row's kernel with itself is 1.
    let mean_of = |s: &Sums| (s.total() / s.rows.len() as f64 + 1.0) / s.rows.len() as f64;
    let value = mean_of(&own) + mean_of(&other) - 2.0 * cross.total() / (x.len() * y.len()) as f64;
    let influence = influences(&own.rows, x.len() - 1, &cross);
    Ok(Interval::around(1000.0 * value, 1000.0 * influence_error(&influence), NORMAL))
}
