//! The nearest references when flipped and shifted copies count as the image.

use crate::neighbors::{Best, Blocks, each_tile, neighbors_in_tile};
use crate::points::{center, check, hashes};
use crate::{Error, NearestPairs, Points, Real};
use ndarray::{Array1, ArrayView2, Axis};
use std::collections::HashSet;

/// Shifts in pixels, in both directions; with and without a horizontal flip that makes 18 versions.
const SHIFTS: [isize; 3] = [-1, 0, 1];

/// References that are transformed at a time: bounds memory.
const ROWS: usize = 4096;

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
/// crops, which plain pixel distance misses. References that are equal count once, with the first index.
#[derive(Debug)]
pub struct TransformedSearch<'q, T: Real> {
    queries: Points<'q, T>,
    center: Array1<f64>,
    versions: Vec<Vec<usize>>,
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
        Ok(Self {
            nearest: Blocks::new(queries.nrows(), || Best::new(2)),
            queries: Points::new("queries", queries, center.view())?,
            center,
            versions: versions(shape),
            seen: HashSet::new(),
        })
    }

    /// Compares with references, each known by its `index`.
    pub fn add(&mut self, index: &[usize], references: ArrayView2<'_, T>) -> Result<(), Error> {
        check("references", references, self.center.len())?;
        if index.len() != references.nrows() {
            let reason = format!("{} for {} references", index.len(), references.nrows());
            return Err(Error::Setting { setting: "index", reason });
        }
        let hashes = hashes(references);
        let new: Vec<usize> = (0..references.nrows()).filter(|i| self.seen.insert(hashes[*i])).collect();
        for rows in new.chunks(ROWS) {
            let part = references.select(Axis(0), rows);
            for version in &self.versions {
                let shown = Points::new("references", part.select(Axis(1), version), self.center.view())?;
                each_tile(&self.queries, &shown, |tile, found| {
                    neighbors_in_tile(tile, found, &self.nearest, &self.queries, &shown, |j| index[rows[j]]);
                });
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
        let found: Vec<_> = self.nearest.into_iter().map(|best| [best.found()[0], best.found()[1]]).collect();
        Ok(NearestPairs::collect(found.into_iter(), |j| j as usize))
    }
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
