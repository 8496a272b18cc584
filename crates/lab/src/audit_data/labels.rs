//! Whether labels are a way to copy: one for every image, or without relation to what the images show.

use super::duplicates::{Groups, distinct, rows};
use super::thumbnails::Seen;
use crate::advise::THIN;
use anyhow::Result;
use heldout_core::stream;
use heldout_data::permutation;
use serde::Serialize;
use std::collections::BTreeMap;
use tch::Kind;

/// Neighbours of an image whose labels are compared with its own.
const NEIGHBOURS: usize = 10;
/// Images that are compared, and those among which their neighbours are looked for.
const QUERIES: usize = 2_000;
const AMONG: usize = 10_000;
/// Orders of the labels that give the interval.
const PERMUTATIONS: usize = 200;

/// What the labels are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// All images have the same.
    Single,
    /// More than half of the images share theirs with no other, or there are more than half as many as images.
    Unique,
    /// Images that look alike agree in them no more than if the labels were dealt out by chance.
    Random,
    /// The smallest class has few images.
    Thin,
    /// None of these.
    Plain,
}

/// What is known of the labels.
#[derive(Debug, Clone, Serialize)]
pub struct Labels {
    /// The judgement.
    pub kind: LabelKind,
    /// Different labels.
    pub classes: usize,
    /// Images of the smallest class.
    pub smallest_class: usize,
    /// Images that share their label with no other.
    pub alone: usize,
    /// Groups of equal images with different labels.
    pub conflicting_groups: usize,
    /// Nearest images that were looked at for each, by their thumbnails.
    pub neighbours: usize,
    /// Mean share of them that have the label of the image.
    pub agreement: f64,
    /// What it would be on average if the labels were dealt out anew by chance.
    pub expected_by_chance: f64,
    /// 2.5th and 97.5th percentile of it over 200 such deals.
    pub chance_interval: [f64; 2],
}

/// Looks at the labels of distinct images; `labels` is by index in the stream.
pub(crate) fn labels(seen: &Seen, exact: &Groups, labels: &[i64]) -> Result<Labels> {
    let of = |place: usize| labels[seen.index[place]];
    let places = distinct(seen);
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    places.iter().for_each(|place| *counts.entry(of(*place)).or_default() += 1);
    let alone = counts.values().filter(|n| **n == 1).count();
    let conflicting = exact.iter().filter(|group| group.iter().any(|p| of(*p) != of(group[0]))).count();
    let order = permutation(places.len(), stream(0, "label neighbours", 0, 0));
    let sample: Vec<usize> = order.into_iter().take(AMONG).map(|i| places[i]).collect();
    let k = NEIGHBOURS.min(sample.len().saturating_sub(1));
    let neighbours = neighbours(seen, &sample, k)?;
    let own: Vec<i64> = sample.iter().map(|place| of(*place)).collect();
    let agreement = agreement(&neighbours, k, &own);
    let mut chance: Vec<f64> = (0..PERMUTATIONS)
        .map(|deal| {
            let order = permutation(own.len(), stream(0, "labels by chance", deal as u64, 0));
            let dealt: Vec<i64> = order.into_iter().map(|i| own[i]).collect();
            self::agreement(&neighbours, k, &dealt)
        })
        .collect();
    chance.sort_by(f64::total_cmp);
    let tail = PERMUTATIONS / 40; // 2.5 %
    let chance_interval = [chance[tail], chance[PERMUTATIONS - 1 - tail]];
    let smallest_class = counts.values().copied().min().unwrap_or(0);
    let (classes, n) = (counts.len(), places.len());
    let kind = if classes == 1 {
        LabelKind::Single
    } else if alone * 2 > n || classes * 2 > n {
        LabelKind::Unique
    } else if agreement <= chance_interval[1] {
        LabelKind::Random
    } else if smallest_class < THIN {
        LabelKind::Thin
    } else {
        LabelKind::Plain
    };
    Ok(Labels {
        kind,
        classes,
        smallest_class,
        alone,
        conflicting_groups: conflicting,
        neighbours: k,
        agreement,
        expected_by_chance: by_chance(&own),
        chance_interval,
    })
}

/// Of the first of `sample`, the places in `sample` of the `k` nearest others, one after the other.
fn neighbours(seen: &Seen, sample: &[usize], k: usize) -> Result<Vec<i64>> {
    let cells = rows(sample.iter().map(|place| &seen.thumbnails[*place]));
    let norms = cells.square().sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    let queries = sample.len().min(QUERIES);
    let first = cells.narrow(0, 0, queries as i64);
    let mut distances = norms.unsqueeze(0) - first.matmul(&cells.tr()) * 2.0;
    let _ = distances.fill_diagonal_(f64::INFINITY, false);
    let (_, nearest) = distances.topk(k as i64, 1, false, true);
    Ok(Vec::<i64>::try_from(nearest.contiguous().flatten(0, -1))?)
}

fn agreement(neighbours: &[i64], k: usize, labels: &[i64]) -> f64 {
    let same = neighbours
        .chunks_exact(k.max(1))
        .enumerate()
        .map(|(i, nearest)| nearest.iter().filter(|j| labels[**j as usize] == labels[i]).count());
    same.sum::<usize>() as f64 / neighbours.len().max(1) as f64
}

/// The chance that two different images have the same label.
fn by_chance(labels: &[i64]) -> f64 {
    let mut counts: BTreeMap<i64, f64> = BTreeMap::new();
    labels.iter().for_each(|l| *counts.entry(*l).or_default() += 1.0);
    let n = labels.len() as f64;
    counts.values().map(|c| c * (c - 1.0)).sum::<f64>() / (n * (n - 1.0)).max(1.0)
}
