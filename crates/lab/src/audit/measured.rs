//! The metrics of an audit: of the samples, and of training images in their place.

use super::sets::Sets;
use super::{SPLIT_ROWS, SPLITS};
use crate::feature_metrics::MetricRow;
use anyhow::{Context, Result};
use heldout_core::Error;
use heldout_features::INCEPTION;
use heldout_metrics::{
    Evaluation, FeatureMetric, FrechetReference, InceptionScore, Interval, Measured, Options, subset, title,
};
use ndarray::{Array2, Axis, CowArray, Ix2};
use std::collections::BTreeMap;

/// Metrics by name, with their network.
pub(super) type Rows = BTreeMap<String, MetricRow>;

pub(super) struct Tables {
    pub(super) samples: Rows,
    pub(super) copier: Rows,
    /// Rows of what is compared, since metrics move with the size of a set; the training images as a reference are all there.
    pub(super) n: usize,
    pub(super) notes: Vec<String>,
}

/// As many rows as are compared, drawn by the seed.
struct Parts {
    n: usize,
    seed: u64,
}

impl Parts {
    fn of<'a>(&self, rows: &'a Array2<f32>) -> CowArray<'a, f32, Ix2> {
        match rows.nrows() == self.n {
            true => rows.view().into(),
            false => rows.select(Axis(0), &subset(rows.nrows(), self.n, self.seed)).into(),
        }
    }
}

pub(super) fn measured(options: Options, network: &str, sets: &Sets) -> Result<Tables> {
    let n = sets.generated.index.len().min(sets.floor.index.len()).min(sets.train.index.len());
    let parts = Parts { n, seed: options.seed };
    let train = sets.train.features.view();
    let evaluation = Evaluation::new(train, Some(parts.of(&sets.floor.features)), options);
    let evaluation = evaluation.map_err(Error::from).context("features of the images")?;
    let mut notes = Vec::new();
    let mut measure = |rows: &Array2<f32>, what: &str, noted: bool| -> Result<Rows> {
        let all = evaluation.measure(parts.of(rows).view(), &FeatureMetric::USUAL);
        let mut found = BTreeMap::new();
        for (metric, measured) in all.map_err(Error::from).context("features of the images")? {
            let name = title(metric, network);
            match measured {
                Ok(measured) => {
                    let said = measured.notes.iter().filter(|_| noted);
                    notes.extend(said.map(|note| format!("{name}: {note}")));
                    found.insert(name, measured.into());
                }
                Err(e) => notes.push(format!("{name} of {what} is left out: {e}")),
            }
        }
        Ok(found)
    };
    let mut samples = measure(&sets.generated.features, "the samples", true)?;
    let copier = measure(&sets.train.features, "the copier", false)?;
    let others = [
        ("inception score", inception_score(sets, &parts)),
        (if network == INCEPTION { "sFID" } else { "sFD" }, spatial_distance(sets, &parts)),
    ];
    for (name, found) in others {
        let name = if name == "sFID" { name.to_owned() } else { format!("{name}({network})") };
        match found {
            Ok(measured) => samples.extend(measured.map(|m| (name, m.into()))),
            Err(e) => notes.push(format!("{name} of the samples is left out: {e}")),
        }
    }
    Ok(Tables { samples, copier, n, notes })
}

/// Where the network has a head.
fn inception_score(sets: &Sets, parts: &Parts) -> Result<Option<Measured>, heldout_metrics::Error> {
    let (Some(logits), Some(real)) = (&sets.generated.logits, &sets.floor.logits) else { return Ok(None) };
    let splits = (parts.n / SPLIT_ROWS).clamp(2, SPLITS);
    let score = |logits: &Array2<f32>| -> Result<Interval, heldout_metrics::Error> {
        Ok(InceptionScore::of_logits(parts.of(logits).view(), splits, Some(parts.seed))?.interval())
    };
    let value = score(logits)?;
    Ok(Some(Measured { value, against_held_out: None, real_vs_train: score(real).ok(), notes: Vec::new() }))
}

/// The Fréchet distance of features with their place, where the network has them.
fn spatial_distance(sets: &Sets, parts: &Parts) -> Result<Option<Measured>, heldout_metrics::Error> {
    let (Some(generated), Some(real)) = (&sets.generated.spatial, &sets.floor.spatial) else {
        return Ok(None);
    };
    let Some(moments) = &sets.train_moments else { return Ok(None) };
    let (generated, real) = (parts.of(generated), parts.of(real));
    let train = FrechetReference::from_moments(moments)?;
    let value = train.interval_of(generated.view())?.interval;
    let against = FrechetReference::new(real.view()).and_then(|real| real.interval_of(generated.view()));
    Ok(Some(Measured {
        value,
        against_held_out: against.ok().map(|found| found.interval),
        real_vs_train: train.interval_of(real.view()).ok().map(|found| found.interval),
        notes: Vec::new(),
    }))
}
