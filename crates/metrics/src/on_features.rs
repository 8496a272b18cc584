//! Metrics on the features that a network sees.

use crate::memorized::rows;
use crate::{Evaluation, FeatureMetric, Interval, Options, Outcome, Subsets, kernel_distance};
use heldout_core::{Error, Estimate, FeatureExtractor, FeatureSets, Measurement, Metric, Result};
use ndarray::{Array2, Axis};
use std::cell::RefCell;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Sets whose features are kept: generated, training and held-out images, and the halves of a floor.
const KEPT: usize = 5;

/// Training and held-out images, and what was computed of their features.
type Known = ([Tensor; 2], Rc<Evaluation<'static, f32>>);

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
    fn kept(&self, images: &Tensor) -> Result<Rc<Array2<f32>>> {
        let mut kept = self.kept.borrow_mut();
        let found = match kept.iter().position(|(known, _)| same(known, images)) {
            Some(place) => kept.remove(place),
            None => (images.shallow_clone(), Rc::new(sorted(self.features(images)?))),
        };
        let features = found.1.clone();
        kept.insert(0, found);
        kept.truncate(KEPT);
        Ok(features)
    }

    /// What generated images are measured against.
    fn evaluation(&self, train: &Tensor, held_out: &Tensor) -> Result<Rc<Evaluation<'static, f32>>> {
        let mut known = self.evaluation.borrow_mut();
        match &*known {
            Some((of, evaluation)) if same(&of[0], train) && same(&of[1], held_out) => Ok(evaluation.clone()),
            _ => {
                let [of_train, of_held_out] = [train, held_out].map(|images| self.kept(images));
                let (train_rows, held_out_rows) = ((*of_train?).clone(), (*of_held_out?).clone());
                let made = Rc::new(Evaluation::new(train_rows, Some(held_out_rows.into()), self.options)?);
                *known = Some(([train, held_out].map(Tensor::shallow_clone), made.clone()));
                Ok(made)
            }
        }
    }

    /// The squared MMD of generated and real images, all of both: unbiased, so that it is comparable at any size of the sets,
    /// which makes it the quality of a checkpoint.
    pub fn kernel_distance(&self, generated: &Tensor, real: &Tensor) -> Result<f64> {
        let (generated, real) = (self.kept(generated)?, self.kept(real)?);
        Ok(kernel_distance(generated.view(), real.view(), Subsets::All)?.value)
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
    fn evaluate(&self, sets: &FeatureSets<'_>) -> Result<Vec<(String, Measurement)>> {
        let generated = self.kept(sets.generated)?;
        let evaluation = self.evaluation(sets.train, sets.held_out)?;
        let named = |(metric, measured): Outcome| {
            let m = measured.map_err(|e| Error::from(e).within(&self.name(metric)))?;
            let floor = m.real_vs_train.unwrap_or_else(|| unreachable!("held-out features were given"));
            let measurement = Measurement {
                model: m.value.into(),
                against_held_out: m.against_held_out.map(Estimate::from),
                floor: floor.into(),
            };
            Ok((self.name(metric), measurement))
        };
        evaluation.measure(generated.view(), &self.metrics)?.into_iter().map(named).collect()
    }
}

impl From<Interval> for Estimate {
    fn from(i: Interval) -> Self {
        Self { value: i.value, lower: i.lower, upper: i.upper }
    }
}

/// One set of images. Both tensors are held, so that an address belongs to one of them alone.
fn same(known: &Tensor, images: &Tensor) -> bool {
    known.data_ptr() == images.data_ptr() && known.size() == images.size()
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
