//! Metrics of three sets, each with what it would be for real data.

use crate::points::center;
use crate::{
    Error, FeatureMetric, FrechetReference, Interval, Options, Pair, Real, Set, Subsets, ThreeSets, cmmd,
    data_copying, feature_likelihood, kernel_distance, mifid, vendi_score,
};
use ndarray::{ArrayView2, Axis};
use std::sync::OnceLock;

/// A metric of a model beside the same of real data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Generated against training images.
    pub value: Interval,
    /// Generated against held-out images, for a metric of two sets.
    pub against_held_out: Option<Interval>,
    /// The floor, or the ceiling: held-out images in the place of the generated ones. For a metric that needs held-out images
    /// itself every second of them stands for generated images.
    pub real_vs_train: Option<Interval>,
}

/// Three sets of features, and what was computed of them so far.
#[derive(Debug)]
pub struct Evaluation<'a, T: Real> {
    generated: Set<'a, T>,
    train: Set<'a, T>,
    held_out: Option<Set<'a, T>>,
    frechet: [OnceLock<FrechetReference>; 2],
    options: Options,
}

impl<'a, T: Real> Evaluation<'a, T> {
    /// Of rows `[N, D]`; without held-out rows there is no floor.
    ///
    /// Errors: sets of different width, with numbers that are not finite, or with no more than `nearest_k` rows.
    pub fn new(
        generated: ArrayView2<'a, T>,
        train: ArrayView2<'a, T>,
        held_out: Option<ArrayView2<'a, T>>,
        options: Options,
    ) -> Result<Self, Error> {
        let center = center(train);
        let set = |name, rows| Set::new(name, rows, center.view(), options.neighbors.nearest_k);
        Ok(Self {
            generated: set("generated", generated)?,
            train: set("train", train)?,
            held_out: held_out.map(|rows| set("held_out", rows)).transpose()?,
            frechet: [OnceLock::new(), OnceLock::new()],
            options,
        })
    }

    /// Pairs that a metric of two sets is taken of: the model's, against held-out data, and real data's.
    fn pairs(&self) -> (Pair<'_, 'a, T>, Option<[Pair<'_, 'a, T>; 2]>) {
        let pair = |a, b| Pair::new(a, b, self.options.neighbors);
        let real = self.held_out.as_ref().map(|h| [pair(&self.generated, h), pair(h, &self.train)]);
        (pair(&self.generated, &self.train), real)
    }

    /// Each of `metrics`, or why it cannot be measured.
    pub fn measure(&self, metrics: &[FeatureMetric]) -> Vec<(FeatureMetric, Result<Measured, Error>)> {
        let (model, real) = self.pairs();
        let measure = |metric: &FeatureMetric| {
            let measured = match metric {
                FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap => self.of_three(*metric),
                FeatureMetric::Vendi => self.of_one(),
                _ => self.of_two(*metric, &model, real.as_ref()),
            };
            (*metric, measured)
        };
        metrics.iter().map(measure).collect()
    }

    fn of_two(
        &self,
        metric: FeatureMetric,
        model: &Pair<'_, 'a, T>,
        real: Option<&[Pair<'_, 'a, T>; 2]>,
    ) -> Result<Measured, Error> {
        let of = |pair: &Pair<'_, 'a, T>| self.of_pair(metric, pair);
        Ok(Measured {
            value: of(model)?,
            against_held_out: real.map(|[held_out, _]| of(held_out)).transpose()?,
            real_vs_train: real.map(|[_, floor]| of(floor)).transpose()?,
        })
    }

    fn of_pair(&self, metric: FeatureMetric, pair: &Pair<'_, 'a, T>) -> Result<Interval, Error> {
        let (rows, references) = (pair.queries().rows(), pair.references().rows());
        Ok(match metric {
            FeatureMetric::Fd => {
                let reference = self.frechet_reference(pair.references())?;
                match self.options.frechet_intervals {
                    true => reference.interval_of(rows)?.interval,
                    false => point(reference.distance_of(rows)?.value),
                }
            }
            FeatureMetric::FdInfinity => {
                self.frechet_reference(pair.references())?.infinity_of(rows, self.options.seed)?.interval
            }
            FeatureMetric::Kid => {
                let smaller = rows.nrows().min(references.nrows());
                let subsets = match self.options.kid {
                    Subsets::Random { size, .. } if size >= smaller => Subsets::All,
                    given => given,
                };
                kernel_distance(rows, references, subsets)?
            }
            FeatureMetric::Cmmd => cmmd(rows, references)?,
            FeatureMetric::Precision => pair.precision(),
            FeatureMetric::Recall => pair.recall(),
            FeatureMetric::Density => pair.density(),
            FeatureMetric::Coverage => pair.coverage(),
            FeatureMetric::Realism => pair.realism(),
            FeatureMetric::FMem => pair.f_mem()?,
            FeatureMetric::Carlini => pair.carlini(),
            FeatureMetric::AuthPct => pair.auth_pct(),
            FeatureMetric::Mifid => point(mifid(rows, references, self.options.mifid)?.value),
            FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap | FeatureMetric::Vendi => {
                unreachable!("{metric} is of one set or of three")
            }
        })
    }

    fn frechet_reference(&self, set: &Set<'a, T>) -> Result<&FrechetReference, Error> {
        let cell = &self.frechet[usize::from(std::ptr::eq(set, &raw const self.train))];
        match cell.get() {
            Some(known) => Ok(known),
            None => {
                let made = FrechetReference::new(set.rows())?;
                Ok(cell.get_or_init(|| made))
            }
        }
    }

    fn of_one(&self) -> Result<Measured, Error> {
        let held_out = self.held_out.as_ref().map(|h| vendi_score(h.rows())).transpose()?;
        Ok(Measured {
            value: vendi_score(self.generated.rows())?,
            against_held_out: None,
            real_vs_train: held_out,
        })
    }

    fn of_three(&self, metric: FeatureMetric) -> Result<Measured, Error> {
        let Some(held_out) = &self.held_out else {
            return Err(Error::TooFew {
                set: "held_out",
                found: 0,
                needed: self.options.neighbors.nearest_k + 1,
            });
        };
        let (train, held_out) = (self.train.rows(), held_out.rows());
        let options = &self.options;
        let of = |sets: ThreeSets<'_, T>| match metric {
            FeatureMetric::CT => Ok(data_copying(sets, options.cells, options.seed)?.interval),
            FeatureMetric::Fld => Ok(feature_likelihood(sets, None, options.seed)?.divergence),
            _ => Ok(feature_likelihood(sets, None, options.seed)?.gap),
        };
        let every_second = |first: usize| {
            held_out.select(Axis(0), &(first..held_out.nrows()).step_by(2).collect::<Vec<_>>())
        };
        let (stands_for_generated, rest) = (every_second(0), every_second(1));
        Ok(Measured {
            value: of(ThreeSets { generated: self.generated.rows(), train, held_out })?,
            against_held_out: None,
            real_vs_train: Some(of(ThreeSets {
                generated: stands_for_generated.view(),
                train,
                held_out: rest.view(),
            })?),
        })
    }
}

/// Without an interval of its own.
fn point(value: f64) -> Interval {
    Interval { value, lower: value, upper: value }
}
