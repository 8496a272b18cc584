//! All pairs of two sets, a tile at a time: what is near enough to be looked at is found in f32, and no matrix of all pairs is
//! ever there.

use crate::{Points, Real};
use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
use rayon::prelude::*;
use std::ops::Range;

/// Rows of a tile on either side: 1 MB of products a thread, and a multiple of what the product's kernel takes at once (24).
pub(crate) const TILE: usize = 480;

/// No reference looks for a query.
pub(crate) const NO_LIMITS: [f32; TILE] = [f32::NEG_INFINITY; TILE];

/// Products of some queries with some references.
pub(crate) struct Tile<'t> {
    /// Row-major, a row a query.
    products: &'t [f32],
    query_low: &'t [f32],
    reference_low: &'t [f32],
    pub(crate) queries: Range<usize>,
    pub(crate) references: Range<usize>,
}

impl Tile<'_> {
    /// At most the squared distance; query and reference are counted within the tile. Not a number where f32 overflows.
    pub(crate) fn low(&self, query: usize, reference: usize) -> f32 {
        let product = self.products[query * self.references.len() + reference];
        (self.query_low[query] + self.reference_low[reference]) - 2.0 * product
    }

    /// References that may be within the limit of this query, or within their own limits, into `found`.
    pub(crate) fn candidates(&self, query: usize, limit: f32, limits: &[f32], found: &mut Vec<u32>) {
        const LANES: usize = 16;
        found.clear();
        let n = self.references.len();
        let products = &self.products[query * n..(query + 1) * n];
        let low = self.query_low[query];
        // Written so that what is not a number counts as near.
        let far = |product: f32, other: f32, own: f32| (low + other) - 2.0 * product > limit.max(own);
        let whole = n - n % LANES;
        for start in (0..whole).step_by(LANES) {
            let part = start..start + LANES;
            let (p, o, l) = (&products[part.clone()], &self.reference_low[part.clone()], &limits[part]);
            let mut near = [false; LANES];
            for i in 0..LANES {
                near[i] = !far(p[i], o[i], l[i]);
            }
            if near.iter().fold(false, |any, near| any | near) {
                found.extend((0..LANES).filter(|i| near[*i]).map(|i| (start + i) as u32));
            }
        }
        let rest = (whole..n).filter(|i| !far(products[*i], self.reference_low[*i], limits[*i]));
        found.extend(rest.map(|i| i as u32));
    }
}

/// Calls `process` for every tile of `queries` and `references`, on all threads, in no order.
pub(crate) fn each_tile<T: Real>(
    queries: &Points<'_, T>,
    references: &Points<'_, T>,
    process: impl Fn(&Tile<'_>, &mut Vec<u32>) + Sync,
) {
    let columns = references.len().div_ceil(TILE);
    let places = (0..queries.len().div_ceil(TILE) * columns).map(|i| (i / columns, i % columns));
    run(places.collect(), queries, references, process);
}

/// As [`each_tile`] for pairs within one set: of the tiles that mirror each other only one comes.
pub(crate) fn each_tile_within<T: Real>(
    points: &Points<'_, T>,
    process: impl Fn(&Tile<'_>, &mut Vec<u32>) + Sync,
) {
    let blocks = points.len().div_ceil(TILE);
    let places = (0..blocks).flat_map(|i| (i..blocks).map(move |j| (i, j)));
    run(places.collect(), points, points, process);
}

fn run<T: Real>(
    places: Vec<(usize, usize)>,
    queries: &Points<'_, T>,
    references: &Points<'_, T>,
    process: impl Fn(&Tile<'_>, &mut Vec<u32>) + Sync,
) {
    let range = |block: usize, n: usize| block * TILE..((block + 1) * TILE).min(n);
    places.into_par_iter().for_each_init(
        || (vec![0.0f32; TILE * TILE], [Vec::new(), Vec::new()], Vec::new()),
        |(buffer, [of_queries, of_references], found), (i, j)| {
            let (q, r) = (range(i, queries.len()), range(j, references.len()));
            let products = &mut buffer[..q.len() * r.len()];
            let blocks = (queries.block(q.clone(), of_queries), references.block(r.clone(), of_references));
            multiply(products, blocks, (q.len(), r.len()));
            let tile = Tile {
                products,
                query_low: &queries.low()[q.clone()],
                reference_low: &references.low()[r.clone()],
                queries: q,
                references: r,
            };
            process(&tile, found);
        },
    );
}

/// `queries references^T`, row-major, of this many rows each.
fn multiply(out: &mut [f32], (queries, references): (&[f32], &[f32]), (rows, columns): (usize, usize)) {
    let width = queries.len() / rows;
    // Columns of `out`'s transpose are contiguous, which is how the product is made fastest.
    matmul(
        MatMut::from_column_major_slice_mut(out, columns, rows),
        Accum::Replace,
        MatRef::from_row_major_slice(references, columns, width),
        MatRef::from_row_major_slice(queries, rows, width).transpose(),
        1.0,
        Par::Seq,
    );
}
