//! Feature matrices in f32 or f64.

use crate::{Error, Evaluation, FeatureMetric, Options, Outcome, TransformedSearch};
use faer::traits::RealField;
use faer::{Mat, MatRef};
use ndarray::{ArrayView2, CowArray, Ix2};
use std::borrow::Cow;

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// What a feature may be: f32 or f64. Sums and whatever decides are in f64 for both.
pub trait Real: sealed::Sealed + RealField + Copy + Into<f64> + Send + Sync + 'static {
    /// Rounded to this type.
    #[doc(hidden)]
    fn from_f64(x: f64) -> Self;

    /// The rows themselves, where they are f32.
    #[doc(hidden)]
    fn as_f32(rows: ArrayView2<'_, Self>) -> Option<ArrayView2<'_, f32>>;

    /// [`Evaluation::new`]. This and what follows is compiled with this crate, and not, as generic code is, with the settings of
    /// whoever calls it.
    #[doc(hidden)]
    fn evaluation<'a>(
        train: CowArray<'a, Self, Ix2>,
        held_out: Option<CowArray<'a, Self, Ix2>>,
        options: Options,
    ) -> Result<Evaluation<'a, Self>, Error>;

    /// [`Evaluation::measure`].
    #[doc(hidden)]
    fn measure(
        evaluation: &Evaluation<'_, Self>,
        generated: ArrayView2<'_, Self>,
        metrics: &[FeatureMetric],
    ) -> Result<Vec<Outcome>, Error>;

    /// [`TransformedSearch::add`].
    #[doc(hidden)]
    fn search(
        search: &mut TransformedSearch<'_, Self>,
        index: &[usize],
        references: ArrayView2<'_, Self>,
    ) -> Result<(), Error>;
}

macro_rules! compiled_here {
    () => {
        fn evaluation<'a>(
            train: CowArray<'a, Self, Ix2>,
            held_out: Option<CowArray<'a, Self, Ix2>>,
            options: Options,
        ) -> Result<Evaluation<'a, Self>, Error> {
            Evaluation::of(train, held_out, options)
        }

        fn measure(
            evaluation: &Evaluation<'_, Self>,
            generated: ArrayView2<'_, Self>,
            metrics: &[FeatureMetric],
        ) -> Result<Vec<Outcome>, Error> {
            evaluation.measure_all(generated, metrics)
        }

        fn search(
            search: &mut TransformedSearch<'_, Self>,
            index: &[usize],
            references: ArrayView2<'_, Self>,
        ) -> Result<(), Error> {
            search.search(index, references)
        }
    };
}

impl Real for f32 {
    compiled_here!();

    fn from_f64(x: f64) -> Self {
        x as f32
    }

    fn as_f32(rows: ArrayView2<'_, Self>) -> Option<ArrayView2<'_, f32>> {
        Some(rows)
    }
}

impl Real for f64 {
    compiled_here!();

    fn from_f64(x: f64) -> Self {
        x
    }

    fn as_f32(_: ArrayView2<'_, Self>) -> Option<ArrayView2<'_, f32>> {
        None
    }
}

/// A set of features `[N, D]`, one row after the other: all finite.
#[derive(Debug, Clone)]
pub(crate) struct Rows<'a, T: Clone> {
    values: Cow<'a, [T]>,
    pub(crate) width: usize,
}

impl<'a, T: Real> Rows<'a, T> {
    /// At least `needed` rows of `width` numbers, not all of them equal where two are needed.
    pub(crate) fn new(
        set: &'static str,
        rows: ArrayView2<'a, T>,
        width: usize,
        needed: usize,
    ) -> Result<Self, Error> {
        if rows.ncols() != width || width == 0 {
            return Err(Error::Width { set, found: rows.ncols(), expected: width.max(1) });
        }
        let values = match rows.to_slice() {
            Some(slice) => Cow::Borrowed(slice),
            None => Cow::Owned(rows.iter().copied().collect()),
        };
        let set_of = Self { values, width };
        let finite = |row: &[T]| row.iter().all(|x| (*x).into().is_finite());
        if let Some(row) = set_of.iter().position(|row| !finite(row)) {
            return Err(Error::NotFinite { set, row });
        }
        let found = match set_of.len() {
            n if n >= 2 && set_of.iter().all(|row| row == set_of.row(0)) => 1,
            n => n,
        };
        if found < needed {
            return Err(Error::TooFew { set, found, needed });
        }
        Ok(set_of)
    }

    /// Rows as they are, of sets that were looked at before.
    pub(crate) fn owned(values: Vec<T>, width: usize) -> Self {
        Self { values: Cow::Owned(values), width }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len() / self.width
    }

    pub(crate) fn row(&self, i: usize) -> &[T] {
        &self.values[i * self.width..(i + 1) * self.width]
    }

    pub(crate) fn iter(&self) -> std::slice::ChunksExact<'_, T> {
        self.values.chunks_exact(self.width)
    }

    /// `[N, D]`.
    pub(crate) fn view(&self) -> ArrayView2<'_, T> {
        ArrayView2::from_shape((self.len(), self.width), &self.values)
            .unwrap_or_else(|_| unreachable!("rows of one width"))
    }

    /// `[N, D]` for faer.
    pub(crate) fn matrix(&self) -> MatRef<'_, T> {
        MatRef::from_row_major_slice(&self.values, self.len(), self.width)
    }

    /// The rows of these indices.
    pub(crate) fn select(&self, indices: &[usize]) -> Rows<'static, T> {
        Rows::owned(indices.iter().flat_map(|i| self.row(*i)).copied().collect(), self.width)
    }

    /// In f64.
    pub(crate) fn to_f64(&self) -> Rows<'static, f64> {
        Rows::owned(self.values.iter().map(|x| (*x).into()).collect(), self.width)
    }

    /// Every row divided by its Euclidean norm.
    pub(crate) fn unit(&self, set: &'static str) -> Result<Rows<'static, T>, Error> {
        let norms = self.norms(set)?;
        let mut values = Vec::with_capacity(self.values.len());
        for (x, norm) in self.iter().zip(norms) {
            values.extend(x.iter().map(|x| T::from_f64((*x).into() / norm)));
        }
        Ok(Rows::owned(values, self.width))
    }

    /// Euclidean norm of every row in f64, none of them 0.
    fn norms(&self, set: &'static str) -> Result<Vec<f64>, Error> {
        let norm = |row: &[T]| row.iter().map(|x| (*x).into().powi(2)).sum::<f64>().sqrt();
        let norms: Vec<f64> = self.iter().map(norm).collect();
        match norms.iter().position(|norm| *norm == 0.0) {
            Some(row) => Err(Error::ZeroRow { set, row }),
            None => Ok(norms),
        }
    }
}

/// Rows as directions: some at a time become unit rows in f64, so that no copy of a set is made.
#[derive(Debug)]
pub(crate) struct Directions<'s, 'a, T: Clone> {
    pub(crate) rows: &'s Rows<'a, T>,
    norms: Vec<f64>,
}

impl<'s, 'a, T: Real> Directions<'s, 'a, T> {
    /// `set` is what errors call it: a row of zeros has none.
    pub(crate) fn new(set: &'static str, rows: &'s Rows<'a, T>) -> Result<Self, Error> {
        Ok(Self { norms: rows.norms(set)?, rows })
    }

    /// Rows `first..last` as columns: `[D, B]`.
    pub(crate) fn units(&self, first: usize, last: usize) -> Mat<f64> {
        let unit = |j: usize, i: usize| self.rows.row(first + i)[j].into() / self.norms[first + i];
        Mat::from_fn(self.rows.width, last - first, unit)
    }
}
