//! The page of an audit.

use super::sets::Sets;
use super::verdict::percent;
use super::{Audit, Suspect};
use crate::feature_metrics::MetricRow;
use crate::report::data_uri;
use anyhow::Result;
use heldout_data::ImageStream;
use serde::Serialize;
use tch::Tensor;

/// Triples that are shown of the samples and of real images.
const SHOWN: usize = 24;
const SHOWN_OF_FLOOR: usize = 8;

#[derive(Debug, Serialize)]
struct Page<'a> {
    audit: &'a Audit,
    copies: String,
    false_positives: String,
    rows: Vec<Row<'a>>,
    classes: Vec<[String; 4]>,
    suspects: Vec<Triple>,
    floor_suspects: Vec<Triple>,
    compared: String,
}

#[derive(Debug, Serialize)]
struct Row<'a> {
    name: &'a str,
    cells: [String; 5],
}

#[derive(Debug, Serialize)]
struct Triple {
    images: [String; 3],
    sample: String,
    nearest: String,
    ratio: String,
    copy: bool,
}

pub(super) fn page(audit: &Audit, sets: &Sets) -> Result<String> {
    let rows =
        audit.metrics.iter().map(|(name, row)| Row { name, cells: cells(row, audit.copier.get(name)) });
    let class = |c: &super::ClassShare| {
        let marked = if c.missing { "missing or rare" } else { "" };
        [c.class.clone(), percent(&c.generated), percent(&c.real), marked.to_owned()]
    };
    let triples = |suspects: &[Suspect], stream: &ImageStream, most: usize| -> Result<Vec<Triple>> {
        suspects.iter().take(most).map(|s| triple(s, stream, &sets.streams.train)).collect()
    };
    let [_, height, width] = audit.compared_pixels;
    crate::report::render(
        "audit.html",
        include_str!("audit.html"),
        &Page {
            audit,
            copies: percent(&audit.copies),
            false_positives: percent(&audit.false_positives),
            rows: rows.collect(),
            classes: audit.classes.iter().map(class).collect(),
            suspects: triples(&audit.suspects, &sets.streams.generated, SHOWN)?,
            floor_suspects: triples(&audit.floor_suspects, sets.floor_stream(), SHOWN_OF_FLOOR)?,
            compared: format!("{width}x{height}"),
        },
    )
}

fn cells(row: &MetricRow, copier: Option<&MetricRow>) -> [String; 5] {
    let number = |x: f64| match x.abs() {
        x_abs if x_abs >= 100.0 => format!("{x:.1}"),
        x_abs if x_abs > 0.0 && x_abs < 0.01 => format!("{x:.1e}"),
        _ => format!("{x:.3}"),
    };
    let with = |x: Option<f64>, ci: Option<[f64; 2]>| match (x, ci) {
        (Some(x), Some([low, high])) => format!("{} [{}, {}]", number(x), number(low), number(high)),
        (Some(x), None) => number(x),
        (None, _) => "-".to_owned(),
    };
    [
        with(Some(row.value), row.ci),
        with(row.against_held_out, row.against_held_out_ci),
        with(copier.and_then(|c| c.against_held_out), copier.and_then(|c| c.against_held_out_ci)),
        with(row.real_vs_train, row.real_vs_train_ci),
        with(copier.map(|c| c.value), copier.and_then(|c| c.ci)),
    ]
}

fn triple(s: &Suspect, stream: &ImageStream, train: &ImageStream) -> Result<Triple> {
    let picture = |stream: &ImageStream, place: usize| -> Result<String> {
        let shape = stream.shape.map(|n| n as i64);
        data_uri(&Tensor::from_slice(&stream.image(place)?).view(shape))
    };
    let [sample, nearest, second] = s.places;
    Ok(Triple {
        images: [picture(stream, sample)?, picture(train, nearest)?, picture(train, second)?],
        sample: s.sample.clone(),
        nearest: s.nearest.clone(),
        ratio: format!("{:.2} / {:.2} = {:.2}", s.d1, s.d2, s.ratio),
        copy: s.ratio < heldout_metrics::MEMORIZED_RATIO,
    })
}
