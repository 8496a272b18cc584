//! Metrics of three sets, each with what it would be for real data.

use crate::points::center;
use crate::{
    Compared, Error, FeatureLikelihood, FeatureMetric, Interval, Options, Pair, Real, Set, Subsets,
    ThreeSets, cmmd, data_copying, feature_likelihood, kernel_distance, mifid, vendi_score,
};
use ndarray::{ArrayView2, Axis, CowArray, Ix2};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

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

/// A metric, and what it is or why it cannot be measured.
pub type Outcome = (FeatureMetric, Result<Measured, Error>);

/// Training and held-out features that sets of samples are measured against, and what was computed of them so far: of several
/// sets of samples it is computed once.
#[derive(Debug)]
pub struct Evaluation<'a, T: Real> {
    train: Set<'a, T>,
    held_out: Option<Set<'a, T>>,
    options: Options,
    /// Held-out rows beside the training ones.
    real: Compared,
    /// What the metrics are for real data.
    floors: Mutex<BTreeMap<FeatureMetric, Interval>>,
}

impl<'a, T: Real> Evaluation<'a, T> {
    /// Of rows `[N, D]`; without held-out rows there is no floor.
    ///
    /// Errors: sets of different width, with numbers that are not finite, or with no more than `nearest_k` rows.
    pub fn new(
        train: impl Into<CowArray<'a, T, Ix2>>,
        held_out: Option<CowArray<'a, T, Ix2>>,
        options: Options,
    ) -> Result<Self, Error> {
        let (train, k) = (train.into(), options.neighbors.nearest_k);
        let center = center(train.view());
        Ok(Self {
            held_out: held_out.map(|rows| Set::new("held_out", rows, center.view(), k)).transpose()?,
            train: Set::new("train", train, center.view(), k)?,
            options,
            real: Compared::default(),
            floors: Mutex::default(),
        })
    }

    /// Each of `metrics` of generated rows `[N, D]`, or why it cannot be measured.
    ///
    /// Errors: as of [`Evaluation::new`].
    pub fn measure(
        &self,
        generated: ArrayView2<'_, T>,
        metrics: &[FeatureMetric],
    ) -> Result<Vec<Outcome>, Error> {
        let generated =
            Set::new("generated", generated, self.train.center(), self.options.neighbors.nearest_k)?;
        let samples = Samples {
            set: &generated,
            compared: [Compared::default(), Compared::default()],
            likelihood: OnceLock::new(),
        };
        Ok(metrics.iter().map(|metric| (*metric, self.measure_one(&samples, *metric))).collect())
    }

    fn measure_one(&self, samples: &Samples<'_, '_, T>, metric: FeatureMetric) -> Result<Measured, Error> {
        let real_vs_train =
            self.held_out.as_ref().map(|held_out| self.floor(held_out, metric)).transpose()?;
        let [of_train, of_held_out] = &samples.compared;
        let (value, against_held_out) = match metric {
            FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap => {
                let Some(held_out) = &self.held_out else {
                    let needed = self.options.neighbors.nearest_k + 1;
                    return Err(Error::TooFew { set: "held_out", found: 0, needed });
                };
                let (generated, train) = (samples.set.rows(), self.train.rows());
                let sets = ThreeSets { generated, train, held_out: held_out.rows() };
                (self.of_three(metric, sets, &samples.likelihood)?, None)
            }
            FeatureMetric::Vendi => (vendi_score(samples.set.rows())?, None),
            _ => {
                let against = |held_out| self.of_pair(metric, samples.set, held_out, of_held_out);
                let value = self.of_pair(metric, samples.set, &self.train, of_train)?;
                (value, self.held_out.as_ref().map(against).transpose()?)
            }
        };
        Ok(Measured { value, against_held_out, real_vs_train })
    }

    /// The metric of held-out rows in the place of samples.
    fn floor(&self, held_out: &Set<'a, T>, metric: FeatureMetric) -> Result<Interval, Error> {
        let mut floors = self.floors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = floors.get(&metric) {
            return Ok(*known);
        }
        let train = self.train.rows();
        match metric {
            FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap => {
                let rows = held_out.rows();
                let every_second = |first: usize| {
                    rows.select(Axis(0), &(first..rows.nrows()).step_by(2).collect::<Vec<_>>())
                };
                let (generated, held_out) = (every_second(0), every_second(1));
                let sets = ThreeSets { generated: generated.view(), train, held_out: held_out.view() };
                let likelihood = OnceLock::new();
                floors.insert(metric, self.of_three(metric, sets, &likelihood)?);
                if let Some(found) = likelihood.get() {
                    floors.insert(FeatureMetric::Fld, found.divergence);
                    floors.insert(FeatureMetric::FldGap, found.gap);
                }
            }
            FeatureMetric::Vendi => drop(floors.insert(metric, vendi_score(held_out.rows())?)),
            _ => drop(floors.insert(metric, self.of_pair(metric, held_out, &self.train, &self.real)?)),
        }
        Ok(floors[&metric])
    }

    fn of_three(
        &self,
        metric: FeatureMetric,
        sets: ThreeSets<'_, T>,
        likelihood: &OnceLock<FeatureLikelihood>,
    ) -> Result<Interval, Error> {
        let seed = self.options.seed;
        if metric == FeatureMetric::CT {
            return Ok(data_copying(sets, self.options.cells, seed)?.interval);
        }
        let found = match likelihood.get() {
            Some(known) => known,
            None => {
                let made = feature_likelihood(sets, None, seed)?;
                likelihood.get_or_init(|| made)
            }
        };
        Ok(if metric == FeatureMetric::Fld { found.divergence } else { found.gap })
    }

    fn of_pair(
        &self,
        metric: FeatureMetric,
        queries: &Set<'_, T>,
        references: &Set<'_, T>,
        compared: &Compared,
    ) -> Result<Interval, Error> {
        let pair = Pair::new(queries, references, self.options.neighbors, compared);
        let (rows, reference_rows) = (queries.rows(), references.rows());
        Ok(match metric {
            FeatureMetric::Fd => {
                let reference = references.frechet()?;
                match self.options.frechet_intervals {
                    true => reference.interval_of(rows)?.interval,
                    false => point(reference.distance_of(rows)?.value),
                }
            }
            FeatureMetric::FdInfinity => references.frechet()?.infinity_of(rows, self.options.seed)?.interval,
            FeatureMetric::Kid => {
                let smaller = rows.nrows().min(reference_rows.nrows());
                let subsets = match self.options.kid {
                    Subsets::Random { size, .. } if size >= smaller => Subsets::All,
                    given => given,
                };
                kernel_distance(rows, reference_rows, subsets)?
            }
            FeatureMetric::Cmmd => cmmd(rows, reference_rows)?,
            FeatureMetric::Precision => pair.precision(),
            FeatureMetric::Recall => pair.recall(),
            FeatureMetric::Density => pair.density(),
            FeatureMetric::Coverage => pair.coverage(),
            FeatureMetric::Realism => pair.realism(),
            FeatureMetric::FMem => pair.f_mem()?,
            FeatureMetric::Carlini => pair.carlini(),
            FeatureMetric::AuthPct => pair.auth_pct(),
            FeatureMetric::Mifid => point(mifid(rows, reference_rows, self.options.mifid)?.value),
            FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap | FeatureMetric::Vendi => {
                unreachable!("{metric} is of one set or of three")
            }
        })
    }
}

/// Generated rows, and what was computed of them so far.
struct Samples<'s, 'g, T: Real> {
    set: &'s Set<'g, T>,
    /// Beside training and held-out rows.
    compared: [Compared; 2],
    likelihood: OnceLock<FeatureLikelihood>,
}

/// Without an interval of its own.
fn point(value: f64) -> Interval {
    Interval { value, lower: value, upper: value }
}
