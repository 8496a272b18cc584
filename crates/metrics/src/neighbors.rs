//! Nearest neighbours within a set and between two, and who lies in whose ball. Exact.

mod best;
mod tiles;

use crate::real::Rows;
use crate::{Points, Real};
pub(crate) use best::Best;
use best::up;
use ndarray::ArrayView1;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
pub(crate) use tiles::each_tile;
use tiles::{NO_LIMITS, TILE, Tile, each_tile_within};

/// The `k` nearest of every row, the nearest first; ties go to the lower index.
#[derive(Debug, Clone, PartialEq)]
pub struct Neighbors {
    k: usize,
    /// Squared distance and index, `k` a row.
    found: Vec<(f64, u32)>,
}

impl Neighbors {
    fn collect(k: usize, best: impl Iterator<Item = Best>) -> Self {
        Self { k, found: best.flat_map(|b| b.found().to_vec()).collect() }
    }

    /// How many for each row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Squared distance and index of the neighbours of one row.
    pub fn row(&self, row: usize) -> &[(f64, u32)] {
        &self.found[row * self.k..(row + 1) * self.k]
    }

    /// All rows.
    pub fn rows(&self) -> std::slice::ChunksExact<'_, (f64, u32)> {
        self.found.chunks_exact(self.k.max(1))
    }

    /// Squared distance to the `k`th of each row, `k` from 1.
    pub fn squared_radii(&self, k: usize) -> Vec<f64> {
        self.rows().map(|row| row[k - 1].0).collect()
    }
}

/// Whether a point on the sphere is in the ball.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Inside {
    /// No, `<`: prdc.
    #[default]
    Open,
    /// Yes, `<=`: Kynkäänniemi et al. 2019.
    Closed,
}

impl Inside {
    fn holds(self, squared: f64, squared_radius: f64) -> bool {
        match self {
            Self::Open => squared < squared_radius,
            Self::Closed => squared <= squared_radius,
        }
    }
}

/// Who lies in whose ball.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balls {
    /// For each query, how many references' balls hold it.
    pub held_by: Vec<u32>,
    /// For each reference, whether a query lies in its ball.
    pub covered: Vec<bool>,
    /// For each reference, whether it lies in a query's ball.
    pub recalled: Vec<bool>,
}

/// The `k` nearest others of every point; fewer than `k + 1` points have fewer.
pub fn neighbors_within<T: Real>(points: &Points<'_, T>, k: usize) -> Neighbors {
    let k = k.min(points.len().saturating_sub(1));
    let best = Blocks::new(points.len(), || Best::new(k));
    each_tile_within(points, |tile, found| {
        let diagonal = tile.queries == tile.references;
        let mut rows = best.of(tile.queries.start);
        // Of two blocks the lower is taken first, always: nobody waits in a circle.
        let mut columns = (!diagonal).then(|| best.of(tile.references.start));
        let limit = |b: &Best| b.limit();
        let limits: Vec<f32> = match &columns {
            Some(columns) => columns.iter().map(limit).collect(),
            None => NO_LIMITS[..tile.references.len()].to_vec(),
        };
        for q in 0..tile.queries.len() {
            tile.candidates(q, rows[q].limit(), &limits, found);
            for &r in found.iter() {
                let r = r as usize;
                let (i, j) = (tile.queries.start + q, tile.references.start + r);
                let other = columns.as_ref().map_or(f32::NEG_INFINITY, |c| c[r].limit());
                if i == j || tile.low(q, r) > rows[q].limit().max(other) {
                    continue;
                }
                let squared = points.squared(i, points, j);
                rows[q].offer(squared, j);
                if let Some(columns) = &mut columns {
                    columns[r].offer(squared, i);
                }
            }
        }
    });
    Neighbors::collect(k, best.into_iter())
}

/// Offers the references of one tile, under the names that `index` gives them, to the nearest of its queries.
pub(crate) fn neighbors_in_tile<T: Real>(
    tile: &Tile<'_>,
    found: &mut Vec<u32>,
    nearest: &Blocks<Best>,
    queries: &Points<'_, T>,
    references: &Points<'_, T>,
    index: impl Fn(usize) -> usize,
) {
    for (q, best) in nearest.of(tile.queries.start).iter_mut().enumerate() {
        tile.candidates(q, best.limit(), &NO_LIMITS[..tile.references.len()], found);
        for &r in found.iter() {
            let r = r as usize;
            if tile.low(q, r) > best.limit() {
                continue;
            }
            let j = tile.references.start + r;
            best.offer(queries.squared(tile.queries.start + q, references, j), index(j));
        }
    }
}

/// What [`cross`] looks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'r> {
    /// The nearest references of every query; fewer references are all of them.
    pub k: usize,
    /// Squared radii of the queries' and of the references' balls, if it is asked who lies in whose.
    pub radii: Option<[&'r [f64]; 2]>,
    /// What a ball is.
    pub inside: Inside,
}

/// Pairs of two sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Cross {
    /// References near each query.
    pub nearest: Neighbors,
    /// Who lies in whose ball.
    pub balls: Option<Balls>,
}

/// Compares every query with every reference, once.
pub fn cross<T: Real>(queries: &Points<'_, T>, references: &Points<'_, T>, wanted: Wanted<'_>) -> Cross {
    let k = wanted.k.min(references.len());
    let state = Blocks::new(queries.len(), || (Best::new(k), 0u32));
    let flags = || (0..references.len()).map(|_| AtomicBool::new(false)).collect::<Vec<_>>();
    let (covered, recalled) = (flags(), flags());
    let limits: Vec<f32> = match wanted.radii {
        Some([_, radii]) => radii.iter().map(|r| up(*r)).collect(),
        None => vec![f32::NEG_INFINITY; references.len()],
    };
    each_tile(queries, references, |tile, found| {
        let mut rows = state.of(tile.queries.start);
        let limits = &limits[tile.references.clone()];
        for (q, (best, held_by)) in rows.iter_mut().enumerate() {
            let i = tile.queries.start + q;
            let own = wanted.radii.map_or(f32::NEG_INFINITY, |[radii, _]| up(radii[i]));
            tile.candidates(q, best.limit().max(own), limits, found);
            for &r in found.iter() {
                let r = r as usize;
                if tile.low(q, r) > best.limit().max(own).max(limits[r]) {
                    continue;
                }
                let j = tile.references.start + r;
                let squared = queries.squared(i, references, j);
                best.offer(squared, j);
                let Some([query_radii, reference_radii]) = wanted.radii else { continue };
                if wanted.inside.holds(squared, reference_radii[j]) {
                    *held_by += 1;
                    covered[j].store(true, Relaxed);
                }
                if wanted.inside.holds(squared, query_radii[i]) {
                    recalled[j].store(true, Relaxed);
                }
            }
        }
    });
    let (best, held_by): (Vec<_>, Vec<_>) = state.into_iter().unzip();
    let plain = |flags: Vec<AtomicBool>| flags.into_iter().map(AtomicBool::into_inner).collect();
    let balls = wanted.radii.map(|_| Balls { held_by, covered: plain(covered), recalled: plain(recalled) });
    Cross { nearest: Neighbors::collect(k, best.into_iter()), balls }
}

/// One value a row, in blocks that threads take in turn.
#[derive(Debug)]
pub(crate) struct Blocks<S>(Vec<Mutex<Vec<S>>>);

impl<S> Blocks<S> {
    pub(crate) fn new(rows: usize, value: impl Fn() -> S) -> Self {
        let blocks = (0..rows).step_by(TILE).map(|first| {
            let block = (first..rows.min(first + TILE)).map(|_| value()).collect();
            Mutex::new(block)
        });
        Self(blocks.collect())
    }

    /// The block that begins at `row`.
    pub(crate) fn of(&self, row: usize) -> MutexGuard<'_, Vec<S>> {
        self.0[row / TILE].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn into_iter(self) -> impl Iterator<Item = S> {
        self.0.into_iter().flat_map(|block| block.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Queries that are gathered at a time.
const GATHERED: usize = 4096;

/// Euclidean distance of those queries whose indices are given to their nearest reference, prepared with this centre.
pub(crate) fn nearest_distances<T: Real>(
    queries: &Rows<'_, T>,
    indices: &[usize],
    references: &Points<'_, T>,
    center: ArrayView1<'_, f64>,
) -> Vec<f64> {
    let of = |part: &[usize]| {
        let rows = queries.select(part);
        let queries = Points::prepare(rows.view(), center);
        let found = cross(&queries, references, Wanted { k: 1, ..Wanted::default() });
        found.nearest.rows().map(|row| row[0].0.sqrt()).collect::<Vec<_>>()
    };
    indices.chunks(GATHERED).flat_map(of).collect()
}

/// For every query the largest `squared_radii[j] / |q - r_j|^2` over the references; infinite where they are equal.
pub(crate) fn largest_ratio<T: Real>(
    queries: &Points<'_, T>,
    references: &Points<'_, T>,
    squared_radii: &[f64],
) -> Vec<f64> {
    let state = Blocks::new(queries.len(), || 0.0f64);
    each_tile(queries, references, |tile, _| {
        let mut rows = state.of(tile.queries.start);
        for (q, largest) in rows.iter_mut().enumerate() {
            for (r, j) in tile.references.clone().enumerate() {
                let radius = squared_radii[j];
                // What f32 cannot hold is looked at in f64.
                let low = f64::from(tile.low(q, r)) * *largest;
                if radius > 0.0 && (low <= radius || low.is_nan()) {
                    let squared = queries.squared(tile.queries.start + q, references, j);
                    *largest = largest.max(radius / squared);
                }
            }
        }
    });
    state.into_iter().collect()
}
