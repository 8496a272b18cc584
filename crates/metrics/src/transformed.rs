//! The nearest references when flipped and shifted copies count as the image.

use crate::distances::{approximate, check, error_bound, shortlist, squared_norms, two_smallest};
use crate::{Error, NearestPairs, References};
use ndarray::{Array2, ArrayView2, Axis};
use rayon::prelude::*;

/// Shifts in pixels, in both directions; with and without a horizontal flip that makes 18 versions.
const SHIFTS: [isize; 3] = [-1, 0, 1];

/// Queries of one block: bounds memory at `64 * N` numbers and one transformed reference set a thread.
const BLOCK: usize = 64;

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

fn versions(shape: [usize; 3]) -> Vec<Vec<usize>> {
    let shifts = || SHIFTS.into_iter().flat_map(|dy| SHIFTS.map(|dx| (dy, dx)));
    [false, true]
        .into_iter()
        .flat_map(|flip| shifts().map(move |(dy, dx)| version(shape, flip, dy, dx)))
        .collect()
}

/// As [`References::nearest`], where the distance of a query to a reference is the least over the reference's 18
/// versions: flipped or not, shifted by at most one pixel each way. `queries` is `[M, C * H * W]`.
///
/// This finds the copies of models that were trained with flips and crops, which plain pixel distance misses.
pub fn transformed_nearest(
    references: &References,
    queries: ArrayView2<'_, f32>,
    shape: [usize; 3],
) -> Result<NearestPairs, Error> {
    let pixels: usize = shape.iter().product();
    check("queries", queries, pixels)?;
    if references.rows.ncols() != pixels {
        return Err(Error::Width { set: "references", found: references.rows.ncols(), expected: pixels });
    }
    let versions = versions(shape);
    let blocks: Vec<_> = queries.axis_chunks_iter(Axis(0), BLOCK).collect();
    let found =
        blocks.into_par_iter().flat_map_iter(|queries| nearest_of_block(references, queries, &versions));
    Ok(NearestPairs::collect(found.collect()))
}

fn nearest_of_block(
    references: &References,
    queries: ArrayView2<'_, f32>,
    versions: &[Vec<usize>],
) -> Vec<[(f64, usize); 2]> {
    let centered = &queries - &references.mean;
    let norms = squared_norms(centered.view());
    let mut least = Array2::from_elem((queries.nrows(), references.rows.nrows()), f32::INFINITY);
    let mut largest_norm = 0.0f32;
    for version in versions {
        let shown = references.rows.select(Axis(1), version) - &references.mean;
        let shown_norms = squared_norms(shown.view());
        largest_norm = shown_norms.iter().copied().fold(largest_norm, f32::max);
        let squared = approximate(centered.view(), norms.view(), shown.view(), shown_norms.view());
        least.zip_mut_with(&squared, |a, b| *a = a.min(*b));
    }
    let one = |q: usize| {
        let distance = |i: usize| {
            let (query, row) = (queries.row(q), references.rows.row(i));
            let square = |(x, j): (&f32, &usize)| (f64::from(*x) - f64::from(row[*j])).powi(2);
            let each = versions.iter().map(|v| query.iter().zip(v).map(square).sum::<f64>());
            each.fold(f64::INFINITY, f64::min).sqrt()
        };
        let margin = 2.0 * error_bound(norms[q], largest_norm, queries.ncols());
        let candidates = shortlist(least.row(q).iter().copied(), margin);
        two_smallest(candidates.into_iter().map(|i| (distance(i), references.index[i])))
    };
    (0..queries.nrows()).map(one).collect()
}
