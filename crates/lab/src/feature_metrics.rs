//! `heldout metrics`: every metric on features that any program computed.

use anyhow::{Context, Result};
use heldout_core::Error;
use heldout_data::{Matrix, read_matrix};
use heldout_metrics::{Evaluation, FeatureMetric, Interval, Measured, Options, Real, subset};
use ndarray::{Array2, Axis};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Three feature matrices and what to take of them.
#[derive(Debug)]
pub struct MetricsRequest<'a> {
    /// `[N, D]`, `.npy`, `.npz` or safetensors.
    pub generated: &'a Path,
    /// As `generated`.
    pub train: &'a Path,
    /// As `generated`; without it there is no floor.
    pub held_out: Option<&'a Path>,
    /// All that are asked for, which must be there; none: the usual ones, as far as they can be measured.
    pub metrics: &'a [FeatureMetric],
    /// What is free in the definitions.
    pub options: Options,
    /// Take as many generated as held-out rows, since many metrics move with the size of a set.
    pub equal_sizes: bool,
}

/// One metric, as it stands in JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricRow {
    /// Generated against training.
    pub value: f64,
    /// Its 95 % interval; `null` where it is not known.
    pub ci: Option<[f64; 2]>,
    /// Generated against held-out.
    pub against_held_out: Option<f64>,
    /// Its interval.
    pub against_held_out_ci: Option<[f64; 2]>,
    /// Held-out in the place of generated: what the number is for real data.
    pub real_vs_train: Option<f64>,
    /// Its interval.
    pub real_vs_train_ci: Option<[f64; 2]>,
}

impl From<Measured> for MetricRow {
    fn from(m: Measured) -> Self {
        let ci = |i: &Interval| i.ends();
        Self {
            value: m.value.value,
            ci: ci(&m.value),
            against_held_out: m.against_held_out.map(|i| i.value),
            against_held_out_ci: m.against_held_out.as_ref().and_then(ci),
            real_vs_train: m.real_vs_train.map(|i| i.value),
            real_vs_train_ci: m.real_vs_train.as_ref().and_then(ci),
        }
    }
}

/// All that was measured, by the names of the metrics, and what a reader should know.
#[derive(Debug)]
pub struct FeatureMetrics {
    /// What `--json` prints.
    pub rows: BTreeMap<&'static str, MetricRow>,
    /// In sentences.
    pub notes: Vec<String>,
}

/// Reads the matrices and measures.
pub fn feature_metrics(request: &MetricsRequest<'_>) -> Result<FeatureMetrics> {
    let read = |path: &Path| read_matrix(path);
    let (generated, train) = (read(request.generated)?, read(request.train)?);
    let held_out = request.held_out.map(read).transpose()?;
    let width = train.shape()[1];
    for (path, matrix) in [
        (request.generated, Some(&generated)),
        (request.held_out.unwrap_or(request.train), held_out.as_ref()),
    ] {
        if let Some([rows, columns]) = matrix.map(Matrix::shape)
            && columns != width
        {
            let reason = format!(
                "holds {rows} rows of {columns} features where {} has {width}: all sets need one network",
                request.train.display()
            );
            return Err(Error::file(path, reason).into());
        }
    }
    match (generated, train, held_out) {
        (Matrix::F32(g), Matrix::F32(t), None) => measure(request, g, t, None),
        (Matrix::F32(g), Matrix::F32(t), Some(Matrix::F32(h))) => measure(request, g, t, Some(h)),
        (g, t, h) => measure(request, g.into_f64(), t.into_f64(), h.map(Matrix::into_f64)),
    }
}

fn measure<T: Real>(
    request: &MetricsRequest<'_>,
    mut generated: Array2<T>,
    train: Array2<T>,
    mut held_out: Option<Array2<T>>,
) -> Result<FeatureMetrics> {
    let mut notes = Vec::new();
    match &mut held_out {
        None => notes.push(
            "no held-out set: there is no floor, and nobody can tell from these numbers what real data would score; \
             --held-out names one"
                .to_owned(),
        ),
        Some(held_out) if request.equal_sizes => {
            let n = generated.nrows().min(held_out.nrows());
            for rows in [&mut generated, held_out] {
                if rows.nrows() > n {
                    *rows = rows.select(Axis(0), &subset(rows.nrows(), n, request.options.seed));
                }
            }
        }
        Some(held_out) if held_out.nrows() != generated.nrows() => notes.push(format!(
            "{} generated and {} held-out rows: what moves with the size of a set (fd, recall, coverage, vendi, ..) has its \
             floor at another size; --equal-sizes compares as many of both",
            generated.nrows(),
            held_out.nrows()
        )),
        Some(_) => {}
    }
    let evaluation = Evaluation::new(train, held_out.map(Into::into), request.options);
    let evaluation = evaluation.map_err(Error::from)?;
    let usual = request.metrics.is_empty();
    let metrics = if usual { &FeatureMetric::USUAL[..] } else { request.metrics };
    let mut rows = BTreeMap::new();
    for (metric, measured) in evaluation.measure(generated.view(), metrics).map_err(Error::from)? {
        match measured {
            Ok(measured) => {
                notes.extend(measured.notes.iter().map(|note| format!("{metric}: {note}")));
                rows.insert(metric.name(), measured.into());
            }
            Err(e) if usual => notes.push(format!("{metric} is left out: {e}")),
            Err(e) => return Err(Error::from(e)).context(format!("--metric {metric}")),
        }
    }
    Ok(FeatureMetrics { rows, notes })
}
