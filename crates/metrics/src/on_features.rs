//! Metrics on the features that a network sees.

use crate::memorized::rows;
use crate::{Evaluation, FeatureMetric, Interval, Options, Subsets, kernel_distance};
use heldout_core::{Error, Estimate, FeatureExtractor, FeatureSets, Measurement, Metric, Result};
use ndarray::{Array2, Axis};
use std::cell::RefCell;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Sets whose features are kept: training and held-out images, and the halves of a floor.
const KEPT: usize = 4;

/// Metrics of images `[N, C, H, W]` in `[-1, 1]`, on the features of one network; its name is in theirs.
///
/// Features of training and held-out images are kept from one evaluation to the next.
#[derive(Debug)]
pub struct OnFeatures {
    network: Rc<dyn FeatureExtractor>,
    metrics: Vec<FeatureMetric>,
    options: Options,
    /// Images of one pass.
    batch: i64,
    kept: RefCell<Vec<(Tensor, Rc<Array2<f32>>)>>,
}

impl OnFeatures {
    /// `batch` images go through the network at a time.
    pub fn new(
        network: Rc<dyn FeatureExtractor>,
        metrics: Vec<FeatureMetric>,
        options: Options,
        batch: i64,
    ) -> Self {
        Self { network, metrics, options, batch, kept: RefCell::default() }
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

    /// Those of a set that stays the same.
    fn kept(&self, images: &Tensor) -> Result<Rc<Array2<f32>>> {
        // The tensor is held, so that its address belongs to it alone.
        let same = |known: &Tensor| known.data_ptr() == images.data_ptr() && known.size() == images.size();
        if let Some((_, features)) = self.kept.borrow().iter().find(|(known, _)| same(known)) {
            return Ok(features.clone());
        }
        let features = Rc::new(sorted(self.features(images)?));
        let mut kept = self.kept.borrow_mut();
        if kept.len() == KEPT {
            drop(kept.remove(0));
        }
        kept.push((images.shallow_clone(), features.clone()));
        Ok(features)
    }

    /// The squared MMD of generated and real images, all of both: unbiased, so that it is comparable at any size of the sets,
    /// which makes it the quality of a checkpoint.
    pub fn kernel_distance(&self, generated: &Tensor, real: &Tensor) -> Result<f64> {
        let (generated, real) = (self.features(generated)?, self.kept(real)?);
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
        let generated = sorted(self.features(sets.generated)?);
        let (train, held_out) = (self.kept(sets.train)?, self.kept(sets.held_out)?);
        let evaluation =
            Evaluation::new(generated.view(), train.view(), Some(held_out.view()), self.options)?;
        let named =
            |(metric, measured): (FeatureMetric, std::result::Result<crate::Measured, crate::Error>)| {
                let m = measured.map_err(|e| Error::from(e).within(&self.name(metric)))?;
                let floor = m.real_vs_train.unwrap_or_else(|| unreachable!("held-out features were given"));
                let measurement = Measurement {
                    model: m.value.into(),
                    against_held_out: m.against_held_out.map(Estimate::from),
                    floor: floor.into(),
                };
                Ok((self.name(metric), measurement))
            };
        evaluation.measure(&self.metrics).into_iter().map(named).collect()
    }
}

impl From<Interval> for Estimate {
    fn from(i: Interval) -> Self {
        Self { value: i.value, lower: i.lower, upper: i.upper }
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
