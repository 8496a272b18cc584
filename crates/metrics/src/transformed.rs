//! The nearest references when flipped and shifted copies count as the image.

use crate::neighbors::{Best, Blocks, each_tile, neighbors_in_tile};
use crate::points::{center, check, hash};
use crate::{Error, MEMORIZED_RATIO, NearestPairs, Points, Real};
use ndarray::{Array1, Array2, ArrayView2, Axis};
use rayon::prelude::*;
use std::collections::HashSet;

/// Shifts in pixels, in both directions; with and without a horizontal flip that makes 18 versions.
const SHIFTS: [isize; 3] = [-1, 0, 1];

/// References that are transformed at a time: bounds memory.
const ROWS: usize = 4096;

/// Nearest references that are looked at for the second: more than a training image usually has twins.
const NEAREST: usize = 6;

/// One version of an image `[C, H, W]`: for each of its pixels, the pixel of the original that it shows.
///
/// What a shift leaves empty shows the nearest pixel, as if the border went on.
fn version([channels, height, width]: [usize; 3], flip: bool, dy: isize, dx: isize) -> Vec<usize> {
    let clamp = |place: usize, shift: isize, size: usize| {
        usize::try_from(place as isize + shift).unwrap_or(0).min(size - 1)
    };
    let places =
        (0..channels).flat_map(|c| (0..height).flat_map(move |y| (0..width).map(move |x| (c, y, x))));
    let source = |(c, y, x)| {
        let x = clamp(x, dx, width);
        (c * height + clamp(y, dy, height)) * width + if flip { width - 1 - x } else { x }
    };
    places.map(source).collect()
}

/// The 18 versions of an image `[C, H, W]` that count as the image: flipped or not, shifted by at most one pixel each way.
/// For each pixel of a version, the pixel of the original that it shows.
pub fn versions(shape: [usize; 3]) -> Vec<Vec<usize>> {
    let shifts = || SHIFTS.into_iter().flat_map(|dy| SHIFTS.map(|dx| (dy, dx)));
    [false, true]
        .into_iter()
        .flat_map(|flip| shifts().map(move |(dy, dx)| version(shape, flip, dy, dx)))
        .collect()
}

/// A search for the nearest references of queries, where references come a part at a time and none is kept.
///
/// As [`crate::References::nearest`], but the distance of a query to a reference is the least over the reference's 18 versions:
/// flipped or not, shifted by at most one pixel each way. This finds the copies of models that were trained with flips and
/// crops, which plain pixel distance misses. References that are equal, or each other's mirror images, count once, with the
/// first index; and the second-nearest is none that is a near version of the nearest, as far as distances tell: with such a
/// twin in the training set, copies of both would go unseen.
#[derive(Debug)]
pub struct TransformedSearch<'q, T: Real> {
    /// As they are, and mirrored, so that references are but shifted.
    queries: [Points<'q, T>; 2],
    center: Array1<f64>,
    shifts: Vec<Vec<usize>>,
    mirror: Vec<usize>,
    nearest: Blocks<Best>,
    seen: HashSet<u64>,
}

impl<'q, T: Real> TransformedSearch<'q, T> {
    /// For queries `[M, C * H * W]`; `shape` is `[C, H, W]`.
    pub fn new(queries: ArrayView2<'q, T>, shape: [usize; 3]) -> Result<Self, Error> {
        let center = center(queries);
        let expected: usize = shape.iter().product();
        if queries.ncols() != expected {
            return Err(Error::Width { set: "queries", found: queries.ncols(), expected });
        }
        let mirror = version(shape, true, 0, 0);
        let mut shifts = versions(shape);
        shifts.truncate(shifts.len() / 2);
        let plain = Points::new("queries", queries, center.view())?;
        let all: Vec<usize> = (0..queries.nrows()).collect();
        let mirrored = Points::prepare(gathered(queries, &all, &mirror), center.view());
        Ok(Self {
            nearest: Blocks::new(queries.nrows(), || Best::new(NEAREST)),
            queries: [plain, mirrored],
            center,
            shifts,
            mirror,
            seen: HashSet::new(),
        })
    }

    /// Compares with references, each known by its `index`. A few thousand at a time are searched fastest.
    pub fn add(&mut self, index: &[usize], references: ArrayView2<'_, T>) -> Result<(), Error> {
        T::search(self, index, references)
    }

    pub(crate) fn search(&mut self, index: &[usize], references: ArrayView2<'_, T>) -> Result<(), Error> {
        check("references", references, self.center.len())?;
        if index.len() != references.nrows() {
            let reason = format!("{} for {} references", index.len(), references.nrows());
            return Err(Error::Setting { setting: "index", reason });
        }
        let hash_of = |row: ndarray::ArrayView1<'_, T>| {
            hash(row.iter().copied()).min(hash(self.mirror.iter().map(|p| row[*p])))
        };
        let hashes: Vec<u64> = references.axis_iter(Axis(0)).into_par_iter().map(hash_of).collect();
        let new: Vec<usize> = (0..references.nrows()).filter(|i| self.seen.insert(hashes[*i])).collect();
        for rows in new.chunks(ROWS) {
            for shift in &self.shifts {
                let shown = Points::prepare(gathered(references, rows, shift), self.center.view());
                for queries in &self.queries {
                    each_tile(queries, &shown, |tile, found| {
                        let index = |j: usize| index[rows[j]];
                        neighbors_in_tile(tile, found, &self.nearest, queries, &shown, index);
                    });
                }
            }
        }
        Ok(())
    }

    /// The two nearest of every query.
    ///
    /// Errors: fewer than two distinct references were there.
    pub fn finish(self) -> Result<NearestPairs, Error> {
        let distinct = self.seen.len();
        if distinct < 2 {
            return Err(Error::TooFew { set: "references", found: distinct, needed: 2 });
        }
        let found: Vec<_> = self.nearest.into_iter().map(|best| pair(best.found())).collect();
        Ok(NearestPairs::collect(found.into_iter()))
    }
}

/// Rows of these indices, each with its numbers in this order.
fn gathered<T: Real>(all: ArrayView2<'_, T>, rows: &[usize], order: &[usize]) -> Array2<T> {
    let mut out = Array2::from_elem((rows.len(), order.len()), T::from_f64(0.0));
    let each = out.axis_iter_mut(Axis(0)).into_par_iter().zip(rows.par_iter());
    each.for_each(|(mut out, i)| {
        let row = all.row(*i);
        let row = row.as_standard_layout();
        let row = row.as_slice().unwrap_or_else(|| unreachable!("a row in one piece"));
        out.iter_mut().zip(order).for_each(|(out, place)| *out = row[*place]);
    });
    out
}

/// The nearest, and the nearest of the others that is no near version of it.
///
/// Only the distances of the others to the query are known. Where `d1 + d2 < (d3 - d1) / 3` the second is nearer to the first
/// than a third of what the third is, by the triangle inequality: by the rule for copies, it is a copy of the first.
fn pair(found: &[(f64, u32)]) -> [(f64, u32); 2] {
    let distance = |j: usize| found[j].0.sqrt();
    let last = found.len() - 1;
    let twin = |j: usize| distance(0) + distance(j) < MEMORIZED_RATIO * (distance(last) - distance(0));
    let second = (1..last).find(|j| !twin(*j)).unwrap_or(last);
    [found[0], found[second]]
}

/// [`TransformedSearch`] of references `[N, C * H * W]` that are all there.
pub fn transformed_nearest<T: Real>(
    queries: ArrayView2<'_, T>,
    references: ArrayView2<'_, T>,
    shape: [usize; 3],
) -> Result<NearestPairs, Error> {
    let mut search = TransformedSearch::new(queries, shape)?;
    search.add(&(0..references.nrows()).collect::<Vec<_>>(), references)?;
    search.finish()
}
