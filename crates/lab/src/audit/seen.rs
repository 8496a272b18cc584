//! What an audit keeps of images: rows, in one piece each.

use anyhow::Result;
use ndarray::{Array2, Axis};

/// What was seen of some images.
pub(super) struct Seen {
    /// Index in the stream of each image that could be read.
    pub(super) index: Vec<usize>,
    /// `[N, D]`.
    pub(super) features: Array2<f32>,
    /// `[N, K]`, where the network has a head.
    pub(super) logits: Option<Array2<f32>>,
    /// `[N, S]`, where the network has features with their place.
    pub(super) spatial: Option<Array2<f32>>,
}

impl Seen {
    pub(super) fn select(&self, places: &[usize]) -> Self {
        let select = |all: &Array2<f32>| all.select(Axis(0), places);
        Self {
            index: places.iter().map(|i| self.index[*i]).collect(),
            features: select(&self.features),
            logits: self.logits.as_ref().map(select),
            spatial: self.spatial.as_ref().map(select),
        }
    }
}

/// The same of one batch, and its pixels `[n, C * H * W]` in `[0, 1]` as they are compared.
pub(super) struct OfBatch {
    pub(super) index: Vec<usize>,
    pub(super) features: Array2<f32>,
    pub(super) logits: Option<Array2<f32>>,
    pub(super) spatial: Option<Array2<f32>>,
    pub(super) pixels: Array2<f32>,
}

/// Rows of one width that come some at a time.
pub(super) struct Stacked {
    /// That may come.
    expected: usize,
    count: usize,
    width: usize,
    numbers: Vec<f32>,
}

impl Stacked {
    fn of(expected: usize) -> Self {
        Self { expected, count: 0, width: 0, numbers: Vec::new() }
    }

    fn add(&mut self, rows: &Array2<f32>, row: usize) {
        if self.count == 0 {
            // At once, since growing needs both the old and the new place for a while.
            self.width = rows.ncols();
            self.numbers.reserve_exact(self.expected * self.width);
        }
        self.count += 1;
        self.numbers.extend(rows.row(row));
    }

    /// All rows of a batch.
    pub(super) fn extend(&mut self, rows: &Array2<f32>) {
        (0..rows.nrows()).for_each(|row| self.add(rows, row));
    }

    /// `[N, D]`.
    pub(super) fn finish(mut self) -> Result<Array2<f32>> {
        self.numbers.shrink_to_fit();
        Ok(Array2::from_shape_vec((self.count, self.width), self.numbers)?)
    }
}

/// A set whose images come some at a time.
pub(super) struct Collected {
    index: Vec<usize>,
    features: Stacked,
    logits: Stacked,
    spatial: Stacked,
}

impl Collected {
    /// Of at most so many images.
    pub(super) fn of(expected: usize) -> Self {
        let [features, logits, spatial] = [expected; 3].map(Stacked::of);
        Self { index: Vec::new(), features, logits, spatial }
    }

    /// Of their pixels alone.
    pub(super) fn pixels(expected: usize) -> Stacked {
        Stacked::of(expected)
    }

    /// One image of a batch.
    pub(super) fn add(&mut self, batch: &OfBatch, i: usize) {
        self.index.push(batch.index[i]);
        self.features.add(&batch.features, i);
        for (to, from) in [(&mut self.logits, &batch.logits), (&mut self.spatial, &batch.spatial)] {
            from.iter().for_each(|rows| to.add(rows, i));
        }
    }

    pub(super) fn finish(self) -> Result<Seen> {
        let optional = |rows: Stacked| (rows.count > 0).then(|| rows.finish()).transpose();
        Ok(Seen {
            index: self.index,
            features: self.features.finish()?,
            logits: optional(self.logits)?,
            spatial: optional(self.spatial)?,
        })
    }
}
