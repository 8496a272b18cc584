//! Metrics of three sets, each with what it would be for real data.

use crate::data_copying::{TrainCells, data_copying_by};
use crate::feature_likelihood::{Baseline, likelihood_beside};
use crate::kernel::kernel_distance_beside;
use crate::mifid::mifid_of_rows;
use crate::points::center;
use crate::real::Rows;
use crate::{
    Compared, Error, FeatureLikelihood, FeatureMetric, Interval, Options, Pair, Real, Set, Subsets,
    ThreeSets, cmmd, vendi_score,
};
use ndarray::{ArrayView2, Axis, CowArray, Ix2};
use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// A metric of a model beside the same of real data.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// Generated against training images.
    pub value: Interval,
    /// Generated against held-out images, for a metric of two sets.
    pub against_held_out: Option<Interval>,
    /// The floor, or the ceiling: held-out images in the place of the generated ones. For a metric that needs held-out images
    /// itself every second of them stands for generated images.
    pub real_vs_train: Option<Interval>,
    /// In sentences: why one of these is missing although there are held-out images, and what is to be known of the value.
    pub notes: Vec<String>,
}

/// A number, and what is to be known of it.
#[derive(Debug, Clone)]
struct Noted {
    interval: Interval,
    note: Option<String>,
}

impl From<Interval> for Noted {
    fn from(interval: Interval) -> Self {
        Self { interval, note: None }
    }
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
    floors: Mutex<BTreeMap<FeatureMetric, Result<Noted, Error>>>,
    /// Of the data-copying test.
    cells: OnceLock<Result<TrainCells, Error>>,
    /// Of feature likelihoods.
    baseline: Baseline,
}

impl<'a, T: Real> Evaluation<'a, T> {
    /// Of rows `[N, D]`; without held-out rows there is no floor.
    ///
    /// Errors: an option that cannot be; sets of different width, with numbers that are not finite, or with no more than
    /// `nearest_k` rows.
    pub fn new(
        train: impl Into<CowArray<'a, T, Ix2>>,
        held_out: Option<CowArray<'a, T, Ix2>>,
        options: Options,
    ) -> Result<Self, Error> {
        T::evaluation(train.into(), held_out, options)
    }

    pub(crate) fn of(
        train: CowArray<'a, T, Ix2>,
        held_out: Option<CowArray<'a, T, Ix2>>,
        options: Options,
    ) -> Result<Self, Error> {
        options.neighbors.check()?;
        let k = options.neighbors.nearest_k;
        let center = center(train.view());
        Ok(Self {
            held_out: held_out.map(|rows| Set::new("held_out", rows, center.view(), k)).transpose()?,
            train: Set::new("train", train, center.view(), k)?,
            options,
            real: Compared::default(),
            floors: Mutex::default(),
            cells: OnceLock::new(),
            baseline: Baseline::Fitted(Mutex::default()),
        })
    }

    /// The training and the held-out rows.
    #[cfg(feature = "torch")]
    pub(crate) fn sets(&self) -> [Option<&Set<'a, T>>; 2] {
        [Some(&self.train), self.held_out.as_ref()]
    }

    /// Each of `metrics` of generated rows `[N, D]`, or why it cannot be measured.
    ///
    /// Errors: as of [`Evaluation::new`].
    pub fn measure(
        &self,
        generated: ArrayView2<'_, T>,
        metrics: &[FeatureMetric],
    ) -> Result<Vec<Outcome>, Error> {
        T::measure(self, generated, metrics)
    }

    pub(crate) fn measure_all(
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
        let [of_train, of_held_out] = &samples.compared;
        let (value, against) = match metric {
            FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap => {
                let Some(held_out) = &self.held_out else {
                    let needed = self.options.neighbors.nearest_k + 1;
                    return Err(Error::TooFew { set: "held_out", found: 0, needed });
                };
                let (generated, train) = (samples.set.rows(), self.train.rows());
                let sets = ThreeSets { generated, train, held_out: held_out.rows() };
                (self.of_three(metric, sets, &samples.likelihood, &self.baseline)?.into(), None)
            }
            FeatureMetric::Vendi => {
                (vendi_score(samples.set.rows()).map_err(|e| e.renamed(|_| "generated"))?.into(), None)
            }
            _ => {
                let against = |held_out| self.of_pair(metric, samples.set, held_out, of_held_out);
                let value = self.of_pair(metric, samples.set, &self.train, of_train)?;
                (value, self.held_out.as_ref().map(against))
            }
        };
        let floor = self.held_out.as_ref().map(|held_out| self.floor(held_out, metric));
        let mut notes = Vec::from_iter(value.note);
        let mut beside = |what: &str, found: Option<Result<Noted, Error>>| match found? {
            Ok(found) => Some(found.interval),
            Err(e) => {
                notes.push(format!("its value {what} is missing: {e}"));
                None
            }
        };
        Ok(Measured {
            value: value.interval,
            against_held_out: beside("against held-out rows", against),
            real_vs_train: beside("for real data", floor),
            notes,
        })
    }

    /// The metric of held-out rows in the place of samples.
    fn floor(&self, held_out: &Set<'a, T>, metric: FeatureMetric) -> Result<Noted, Error> {
        let mut floors = self.floors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = floors.get(&metric) {
            return known.clone();
        }
        let found = match metric {
            FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap => {
                let (train, rows) = (self.train.rows(), held_out.rows());
                let every_second = |first: usize| {
                    rows.select(Axis(0), &(first..rows.nrows()).step_by(2).collect::<Vec<_>>())
                };
                let (generated, held_out) = (every_second(0), every_second(1));
                let sets = ThreeSets { generated: generated.view(), train, held_out: held_out.view() };
                let likelihood = OnceLock::new();
                let baseline = Baseline::Fitted(Mutex::default());
                let found = self.of_three(metric, sets, &likelihood, &baseline);
                if let Some(found) = likelihood.get() {
                    floors.insert(FeatureMetric::Fld, Ok(found.divergence.into()));
                    floors.insert(FeatureMetric::FldGap, Ok(found.gap.into()));
                }
                found.map(Noted::from).map_err(|e| of_halves(e, rows.nrows()))
            }
            FeatureMetric::Vendi => {
                vendi_score(held_out.rows()).map(Noted::from).map_err(|e| e.renamed(|_| "held_out"))
            }
            _ => self.of_pair(metric, held_out, &self.train, &self.real),
        };
        floors.insert(metric, found.clone());
        found
    }

    fn of_three(
        &self,
        metric: FeatureMetric,
        sets: ThreeSets<'_, T>,
        likelihood: &OnceLock<FeatureLikelihood>,
        baseline: &Baseline,
    ) -> Result<Interval, Error> {
        let seed = self.options.seed;
        if metric == FeatureMetric::CT {
            let fit = || TrainCells::fit(sets.train, self.options.cells, seed);
            let cells = self.cells.get_or_init(fit).as_ref().map_err(Error::clone)?;
            return Ok(data_copying_by(sets, cells)?.interval);
        }
        let found = match likelihood.get() {
            Some(known) => known,
            None => {
                let made = likelihood_beside(sets, baseline, seed)?;
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
    ) -> Result<Noted, Error> {
        let name = |set: &'static str| match set {
            "generated" | "queries" => queries.name(),
            "train" | "reference" | "references" => references.name(),
            other => other,
        };
        self.of_named(metric, queries, references, compared).map_err(|e| e.renamed(name))
    }

    fn of_named(
        &self,
        metric: FeatureMetric,
        queries: &Set<'_, T>,
        references: &Set<'_, T>,
        compared: &Compared,
    ) -> Result<Noted, Error> {
        let pair = Pair::new(queries, references, self.options.neighbors, compared);
        let (rows, reference_rows) = (queries.rows(), references.rows());
        let known = match metric {
            FeatureMetric::Fd => {
                let reference = references.frechet()?;
                let (interval, deficient) = match self.options.frechet_intervals {
                    true => {
                        let found = reference.interval_of(rows)?;
                        (found.interval, found.rank_deficient)
                    }
                    false => {
                        let found = reference.distance_of(rows)?;
                        (Interval::unknown(found.value), found.rank_deficient)
                    }
                };
                return Ok(Noted { interval, note: deficient.then(|| rank_note(queries, references)) });
            }
            FeatureMetric::FdInfinity => {
                let found = references.frechet()?.infinity_of(rows, self.options.seed)?;
                let note = found.rank_deficient.then(|| rank_note(queries, references));
                return Ok(Noted { interval: found.interval, note });
            }
            FeatureMetric::Kid => {
                let smaller = rows.nrows().min(reference_rows.nrows());
                let subsets = match self.options.kid {
                    Subsets::Random { size, .. } if size >= smaller => Subsets::All,
                    given => given,
                };
                kernel_distance_beside(rows, reference_rows, subsets, references.kernel_total())?
            }
            FeatureMetric::Cmmd => cmmd(rows, reference_rows)?,
            FeatureMetric::Precision => pair.precision(),
            FeatureMetric::Recall => pair.recall(),
            FeatureMetric::Density => pair.density(),
            FeatureMetric::Coverage => pair.coverage(),
            FeatureMetric::Realism => {
                let interval = pair.realism();
                let note = interval.value.is_infinite().then(|| {
                    "infinite, which JSON has as null: half of the rows or more equal one of the reference".to_owned()
                });
                return Ok(Noted { interval, note });
            }
            FeatureMetric::FMem => pair.f_mem()?,
            FeatureMetric::Carlini => pair.carlini(),
            FeatureMetric::AuthPct => pair.auth_pct(),
            FeatureMetric::Mifid => {
                let width = reference_rows.ncols();
                let (x, y) =
                    (Rows::new("generated", rows, width, 2)?, Rows::new("train", reference_rows, width, 2)?);
                let how = (self.options.mifid, self.options.frechet_intervals);
                mifid_of_rows(&x, &y, references.frechet()?, how)?.interval
            }
            FeatureMetric::CT | FeatureMetric::Fld | FeatureMetric::FldGap | FeatureMetric::Vendi => {
                unreachable!("{metric} is of one set or of three")
            }
        };
        Ok(known.into())
    }
}

/// Why the held-out rows, of which every second stood for a sample, have no number.
fn of_halves(e: Error, rows: usize) -> Error {
    let name = |set: &'static str| if set == "generated" { "every second row of held_out" } else { set };
    match e {
        Error::Setting { setting: setting @ "threshold of a cell", reason } => {
            let why = format!(
                "every second of {rows} held-out rows stood for a sample, and a cell needs more than 20"
            );
            Error::Setting { setting, reason: format!("{reason}: {why}") }
        }
        other => other.renamed(name),
    }
}

/// What is to be known of a Fréchet distance from a covariance that is not of full rank.
fn rank_note<T: Real>(queries: &Set<'_, T>, references: &Set<'_, T>) -> String {
    format!(
        "a covariance is not of full rank ({} and {} rows of {} features): the distance is exact for these rows, and says \
         little of what they were drawn from",
        queries.len(),
        references.len(),
        queries.rows().ncols()
    )
}

/// Generated rows, and what was computed of them so far.
struct Samples<'s, 'g, T: Real> {
    set: &'s Set<'g, T>,
    /// Beside training and held-out rows.
    compared: [Compared; 2],
    likelihood: OnceLock<FeatureLikelihood>,
}
