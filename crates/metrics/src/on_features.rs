//! Metrics on the features that a network sees.

use crate::kernel::kernel_distance_beside;
use crate::memorized::{rows, same};
use crate::{Evaluation, FeatureMetric, Interval, Measured, Options, Outcome, Subsets};
use heldout_core::{Error, Estimate, FeatureExtractor, FeatureSets, Measurement, Metric, Result};
use ndarray::{Array2, ArrayView2, Axis};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;
use tch::{Kind, Tensor};

/// Sets whose features are kept: generated, training and held-out images, and the halves of a floor.
const KEPT: usize = 5;

/// Training and held-out images, and what was computed of their features.
type Known = ([Tensor; 2], Rc<Evaluation<'static, f32>>);

/// Features where they are: there is one copy of each.
enum Seen {
    Own(Rc<Array2<f32>>),
    /// Training (0) or held-out rows.
    Of(Rc<Evaluation<'static, f32>>, usize),
}

impl Seen {
    fn view(&self) -> ArrayView2<'_, f32> {
        match self {
            Self::Own(rows) => rows.view(),
            Self::Of(evaluation, set) => {
                let set = evaluation.sets()[*set];
                set.map_or_else(|| unreachable!("held-out features were given"), |set| set.rows())
            }
        }
    }

    /// The kernel's total within these rows, where it is kept.
    fn kernel_total(&self) -> Option<&OnceLock<f64>> {
        match self {
            Self::Own(_) => None,
            Self::Of(evaluation, set) => evaluation.sets()[*set].map(|set| set.kernel_total()),
        }
    }
}

/// Metrics of images `[N, C, H, W]` in `[-1, 1]`, on the features of one network; its name is in theirs.
///
/// Features of the last sets are kept, and what is computed of training and held-out images, from one evaluation to the next.
#[derive(Debug)]
pub struct OnFeatures {
    network: Rc<dyn FeatureExtractor>,
    metrics: Vec<FeatureMetric>,
    options: Options,
    /// Images of one pass.
    batch: i64,
    /// The last one first.
    kept: RefCell<Vec<(Tensor, Rc<Array2<f32>>)>>,
    evaluation: RefCell<Option<Known>>,
}

impl OnFeatures {
    /// `batch` images go through the network at a time.
    pub fn new(
        network: Rc<dyn FeatureExtractor>,
        metrics: Vec<FeatureMetric>,
        options: Options,
        batch: i64,
    ) -> Self {
        Self { network, metrics, options, batch, kept: RefCell::default(), evaluation: RefCell::default() }
    }

    /// Features `[N, D]` of images in `[-1, 1]`, grey or RGB.
    pub fn features(&self, images: &Tensor) -> Result<Array2<f32>> {
        let n = images.size()[0];
        let _guard = tch::no_grad_guard();
        let parts = (0..n).step_by(self.batch.max(1) as usize).map(|first| {
            let part = images.narrow(0, first, self.batch.min(n - first)).to_kind(Kind::Float);
            let part = ((part + 1.0) / 2.0).clamp(0.0, 1.0);
            let rgb = if part.size()[1] == 1 { part.repeat([1, 3, 1, 1]) } else { part };
            Ok(self.network.extract(&rgb)?.features)
        });
        rows(&Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0))
    }

    /// Features in an order of their own; those of the sets that were asked for last are there already.
    fn seen(&self, images: &Tensor) -> Result<Seen> {
        if let Some((of, evaluation)) = &*self.evaluation.borrow()
            && let Some(set) = of.iter().position(|known| same(known, images))
        {
            return Ok(Seen::Of(evaluation.clone(), set));
        }
        let mut kept = self.kept.borrow_mut();
        let found = match kept.iter().position(|(known, _)| same(known, images)) {
            Some(place) => kept.remove(place),
            None => (images.shallow_clone(), Rc::new(sorted(self.features(images)?))),
        };
        let features = found.1.clone();
        kept.insert(0, found);
        kept.truncate(KEPT);
        Ok(Seen::Own(features))
    }

    /// What generated images are measured against: it has the features of both sets, and nobody else.
    fn evaluation(&self, train: &Tensor, held_out: &Tensor) -> Result<Rc<Evaluation<'static, f32>>> {
        if let Some((of, evaluation)) = &*self.evaluation.borrow()
            && same(&of[0], train)
            && same(&of[1], held_out)
        {
            return Ok(evaluation.clone());
        }
        let own = |images: &Tensor| -> Result<Array2<f32>> {
            let seen = self.seen(images)?;
            self.kept.borrow_mut().retain(|(known, _)| !same(known, images));
            Ok(match seen {
                Seen::Own(rows) => Rc::try_unwrap(rows).unwrap_or_else(|shared| (*shared).clone()),
                of => of.view().to_owned(),
            })
        };
        let (train_rows, held_out_rows) = (own(train)?, own(held_out)?);
        let made = Rc::new(Evaluation::new(train_rows, Some(held_out_rows.into()), self.options)?);
        let of = [train, held_out].map(Tensor::shallow_clone);
        *self.evaluation.borrow_mut() = Some((of, made.clone()));
        Ok(made)
    }

    /// The squared MMD of generated and real images, all of both: unbiased, so that it is comparable at any size of the sets,
    /// which makes it the quality of a checkpoint.
    pub fn kernel_distance(&self, generated: &Tensor, real: &Tensor) -> Result<f64> {
        let (generated, real) = (self.seen(generated)?, self.seen(real)?);
        let own = OnceLock::new();
        let kept = real.kernel_total().unwrap_or(&own);
        Ok(kernel_distance_beside(generated.view(), real.view(), Subsets::All, kept)?.value)
    }

    /// As in tables: `FD(EfficientNet-Lite0)`; `FID` is that of the Inception network alone.
    pub fn name(&self, metric: FeatureMetric) -> String {
        title(metric, self.network.name())
    }
}

/// A metric with the network that its features are of. `FID`, `KID` and `MiFID` without one are those of the Inception network.
pub fn title(metric: FeatureMetric, network: &str) -> String {
    match (metric, network) {
        (FeatureMetric::Fd, "Inception") => "FID".to_owned(),
        (FeatureMetric::Mifid, other) if other != "Inception" => format!("memorization-informed FD({other})"),
        (_, _) => format!("{}({network})", metric.title()),
    }
}

impl Metric for OnFeatures {
    fn evaluate(&self, sets: &FeatureSets<'_>) -> Result<Vec<(String, Result<Measurement>)>> {
        let evaluation = self.evaluation(sets.train, sets.held_out)?;
        let generated = self.seen(sets.generated)?;
        let named = |(metric, measured): Outcome| {
            let name = self.name(metric);
            let found = measured.map_err(Error::from).and_then(measurement);
            let found = found.map_err(|e| e.within(&name));
            (name, found)
        };
        Ok(evaluation.measure(generated.view(), &self.metrics)?.into_iter().map(named).collect())
    }
}

/// No number without its floor, and none that is not finite, which a record would have as null.
fn measurement(m: Measured) -> Result<Measurement> {
    let why = || m.notes.join("; ");
    let floor = m.real_vs_train.ok_or_else(|| Error::config("floor", why()))?;
    let finite = |e: &Estimate| [e.value, e.lower, e.upper].iter().all(|x| x.is_finite());
    let (model, floor) = (Estimate::from(m.value), Estimate::from(floor));
    if !(finite(&model) && finite(&floor)) {
        let reason =
            format!("{} and for real data {}, with their intervals: {}", model.value, floor.value, why());
        return Err(Error::config("value", reason));
    }
    let against_held_out = m.against_held_out.map(Estimate::from).filter(finite);
    Ok(Measurement { model, against_held_out, floor })
}

impl From<Interval> for Estimate {
    /// An interval that is not known becomes a point, since records hold numbers.
    fn from(i: Interval) -> Self {
        let [lower, upper] = i.ends().unwrap_or([i.value; 2]);
        Self { value: i.value, lower, upper }
    }
}

/// In an order of their own, so that what is drawn of them does not hang on theirs.
fn sorted(rows: Array2<f32>) -> Array2<f32> {
    let mut order: Vec<usize> = (0..rows.nrows()).collect();
    let compare = |a: &usize, b: &usize| {
        let pairs = rows.row(*a).into_iter().zip(rows.row(*b));
        pairs.map(|(x, y)| x.total_cmp(y)).find(|o| o.is_ne()).unwrap_or(std::cmp::Ordering::Equal)
    };
    order.sort_by(compare);
    rows.select(Axis(0), &order)
}
