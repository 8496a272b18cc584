//! One of the three sets, and what is computed of it once for all metrics.

use crate::nearest::at_least_two;
use crate::neighbors::{Neighbors, neighbors_within};
use crate::points::{count_distinct, firsts};
use crate::{Error, FrechetReference, Points, Real};
use ndarray::{Array1, ArrayView1, ArrayView2, CowArray, Ix2};
use std::sync::OnceLock;

/// A set of features `[N, D]`, prepared.
#[derive(Debug)]
pub struct Set<'a, T: Real> {
    name: &'static str,
    center: Array1<f64>,
    points: Points<'a, T>,
    nearest_k: usize,
    within: OnceLock<Neighbors>,
    /// For each row the first that equals it; `None` where all rows differ.
    firsts: OnceLock<Option<Vec<u32>>>,
    frechet: OnceLock<FrechetReference>,
    /// Total of the polynomial kernel over its pairs.
    kernel_total: OnceLock<f64>,
}

impl<'a, T: Real> Set<'a, T> {
    /// `name` in errors; `center` shared by the sets; `nearest_k` gives the radii of balls.
    ///
    /// Errors: a `nearest_k` of 0; no more rows than that; a number that is not finite; another width.
    pub fn new(
        name: &'static str,
        rows: impl Into<CowArray<'a, T, Ix2>>,
        center: ArrayView1<'_, f64>,
        nearest_k: usize,
    ) -> Result<Self, Error> {
        let rows = rows.into();
        if nearest_k == 0 {
            return Err(Error::Setting {
                setting: "nearest_k",
                reason: "0, where at least 1 is needed".into(),
            });
        }
        let needed = nearest_k + 1;
        if rows.nrows() < needed {
            return Err(Error::TooFew { set: name, found: rows.nrows(), needed });
        }
        let points = Points::new(name, rows, center)?;
        Ok(Self {
            name,
            center: center.to_owned(),
            points,
            nearest_k,
            within: OnceLock::new(),
            firsts: OnceLock::new(),
            frechet: OnceLock::new(),
            kernel_total: OnceLock::new(),
        })
    }

    /// As given.
    pub fn rows(&self) -> ArrayView2<'_, T> {
        self.points.rows()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Never true.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// Shared by the sets that are compared.
    pub(crate) fn center(&self) -> ArrayView1<'_, f64> {
        self.center.view()
    }

    pub(crate) fn points(&self) -> &Points<'a, T> {
        &self.points
    }

    /// The `nearest_k` nearest others of every row.
    pub(crate) fn within(&self) -> &Neighbors {
        self.within.get_or_init(|| neighbors_within(&self.points, self.nearest_k))
    }

    /// Squared distance of each row to its `nearest_k`th neighbour.
    pub(crate) fn squared_radii(&self) -> Vec<f64> {
        self.within().squared_radii(self.nearest_k)
    }

    /// Prepared as what Fréchet distances are taken to.
    pub(crate) fn frechet(&self) -> Result<&FrechetReference, Error> {
        if let Some(known) = self.frechet.get() {
            return Ok(known);
        }
        let made = FrechetReference::new(self.rows())?;
        Ok(self.frechet.get_or_init(|| made))
    }

    /// For each row the first that equals it, if some are equal. Errors: fewer than two that differ.
    pub(crate) fn firsts(&self) -> Result<Option<&[u32]>, Error> {
        let firsts = self.firsts.get_or_init(|| firsts(self.rows())).as_deref();
        at_least_two(self.name, count_distinct(firsts, self.len()))?;
        Ok(firsts)
    }

    /// For kernel distances to this set.
    pub(crate) fn kernel_total(&self) -> &OnceLock<f64> {
        &self.kernel_total
    }

    /// As errors call it.
    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}
