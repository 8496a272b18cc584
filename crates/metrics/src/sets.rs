//! One of the three sets, and what is computed of it once for all metrics.

use crate::neighbors::{Neighbors, neighbors_within};
use crate::points::distinct;
use crate::{Error, FrechetReference, Points, Real, References};
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
    /// `None` where all rows differ.
    distinct: OnceLock<Option<References<'static, T>>>,
    frechet: OnceLock<FrechetReference>,
}

impl<'a, T: Real> Set<'a, T> {
    /// `name` in errors; `center` shared by the sets; `nearest_k` gives the radii of balls.
    ///
    /// Errors: fewer than `nearest_k + 1` rows, or than two distinct ones; a number that is not finite; another width.
    pub fn new(
        name: &'static str,
        rows: impl Into<CowArray<'a, T, Ix2>>,
        center: ArrayView1<'_, f64>,
        nearest_k: usize,
    ) -> Result<Self, Error> {
        let rows = rows.into();
        let needed = nearest_k.max(1) + 1;
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
            distinct: OnceLock::new(),
            frechet: OnceLock::new(),
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

    /// The distinct rows, if some are equal.
    pub(crate) fn distinct(&self) -> Result<Option<&References<'static, T>>, Error> {
        if let Some(known) = self.distinct.get() {
            return Ok(known.as_ref());
        }
        let index = distinct(self.rows());
        let found = match index.len() == self.len() {
            true => None,
            false => Some(References::of_distinct(self.name, self.rows(), index, self.center.view())?),
        };
        Ok(self.distinct.get_or_init(|| found).as_ref())
    }
}
