//! `heldout audit`: whether a set of generated images copies its training images, and how it stands beside real ones.

mod page;
mod sets;
mod verdict;

use crate::feature_metrics::MetricRow;
use anyhow::{Context, Result};
use heldout_core::{Error, FeatureExtractor};
use heldout_data::PixelRange;
use heldout_metrics::{
    Evaluation, FeatureMetric, InceptionScore, Interval, MEMORIZED_RATIO, Measured, NearestPairs, Options,
    Points, Wanted, center, cross, subset, title, wilson,
};
use heldout_train::write_atomically;
use ndarray::{Array2, Axis};
use serde::Serialize;
use sets::{Sets, see_all};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::Device;
pub use verdict::Finding;

/// Suspicious samples that are listed, at most.
const LISTED: usize = 100;
/// Splits of an Inception-style score, at most, and rows of one, at least.
const SPLITS: usize = 10;
const SPLIT_ROWS: usize = 50;
/// Neighbours that vote for the class of a sample.
const VOTERS: usize = 5;

/// What to look at.
#[derive(Debug)]
pub struct AuditRequest<'a> {
    /// Folder, IDX, safetensors, npy or npz.
    pub generated: &'a Path,
    /// As `generated`.
    pub train: &'a Path,
    /// As `generated`; without it a tenth of the training images stands in.
    pub held_out: Option<&'a Path>,
    /// What floats of arrays mean; by default their minimum says it.
    pub range: Option<PixelRange>,
    /// Longer side at which pixels are compared; larger images are shrunk for it.
    pub compared_side: usize,
    /// Images that are in memory at a time.
    pub batch_size: usize,
    /// Of metrics.
    pub options: Options,
    /// Where the network computes.
    pub device: Device,
}

/// A share of images and its 95 % interval.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Share {
    /// How many.
    pub count: usize,
    /// Of how many.
    pub of: usize,
    /// `count / of`.
    pub share: f64,
    /// 95 %, Wilson 1927.
    pub ci: [f64; 2],
}

impl Share {
    fn new(count: usize, of: usize) -> Self {
        let Interval { value, lower, upper } = wilson(count, of);
        Self { count, of, share: value, ci: [lower, upper] }
    }
}

/// A sample and the training image that it is nearest to.
#[derive(Debug, Clone, Serialize)]
pub struct Suspect {
    /// File or number of the sample.
    pub sample: String,
    /// File or number of the nearest training image.
    pub nearest: String,
    /// The next one.
    pub second_nearest: String,
    /// Distance to the nearest, over 18 versions, pixels in [0, 1].
    pub d1: f64,
    /// Distance to the second-nearest.
    pub d2: f64,
    /// `d1 / d2`, below a third: a copy.
    pub ratio: f64,
    /// The same as numbers, for pictures.
    #[serde(skip)]
    pub(crate) places: [usize; 3],
}

/// How often a class is there.
#[derive(Debug, Clone, Serialize)]
pub struct ClassShare {
    /// Name of the class.
    pub class: String,
    /// Among the samples, by the vote of the nearest training images in features.
    pub generated: Share,
    /// Among held-out images, by the same vote.
    pub real: Share,
    /// Far rarer in the samples than in real data.
    pub missing: bool,
}

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Audit {
    /// In a sentence or two.
    pub verdict: String,
    /// The same for programs: `copies`, `few_copies`, `suspicious`, `no_copies`.
    pub copying: Finding,
    /// The feature network.
    pub network: String,
    /// Samples that are near copies of a training image: flips, shifts by a pixel and small changes of brightness included.
    pub copies: Share,
    /// The same of real images that were not trained on: the rate of false alarms.
    pub false_positives: Share,
    /// What the false alarms were counted on.
    pub floor: String,
    /// Images as counted: generated, train, held_out.
    pub images: BTreeMap<&'static str, usize>,
    /// Rows of each set in the metrics of features.
    pub compared_rows: usize,
    /// `[channels, height, width]` at which pixels were compared.
    pub compared_pixels: [usize; 3],
    /// Metrics by name, with their network.
    pub metrics: BTreeMap<String, MetricRow>,
    /// The same of training images in the place of samples: what a copier scores.
    pub copier: BTreeMap<String, MetricRow>,
    /// Classes, where the training images have labels.
    pub classes: Vec<ClassShare>,
    /// Samples that are most alike a training image, the most alike first.
    pub suspects: Vec<Suspect>,
    /// Held-out images that are most alike one: what chance looks like.
    pub floor_suspects: Vec<Suspect>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// Looks, and writes `audit.json` and `audit.html` into `out`.
pub fn audit(request: &AuditRequest<'_>, network: &dyn FeatureExtractor, out: &Path) -> Result<Audit> {
    let sets = see_all(request, network)?;
    let audit = judge(request, network, &sets)?;
    std::fs::create_dir_all(out).map_err(Error::io(out))?;
    let json = serde_json::to_string_pretty(&audit)? + "\n";
    let page = page::page(&audit, &sets)?;
    write_atomically(&out.join("audit.json"), json.as_bytes())?;
    write_atomically(&out.join("audit.html"), page.as_bytes())?;
    Ok(audit)
}

fn judge(request: &AuditRequest<'_>, network: &dyn FeatureExtractor, sets: &Sets) -> Result<Audit> {
    let mut notes: Vec<String> = sets.readings();
    let options = request.options;
    // Metrics move with the size of a set: all that is compared has one size.
    let n = sets.generated.index.len().min(sets.floor_index.len()).min(sets.train.index.len());
    let part = |rows: &Array2<f32>| match rows.nrows() == n {
        true => rows.clone(),
        false => rows.select(Axis(0), &subset(rows.nrows(), n, options.seed)),
    };
    let train = &sets.train.features;
    let (generated, floor) = (part(&sets.generated.features), part(&sets.floor_features));
    let copier = part(train);
    let mut measure = |rows: &Array2<f32>, what: &str| -> Result<BTreeMap<String, MetricRow>> {
        let evaluation = Evaluation::new(rows.view(), train.view(), Some(floor.view()), options);
        let evaluation = evaluation.map_err(Error::from).context("features of the images")?;
        let mut found = BTreeMap::new();
        for (metric, measured) in evaluation.measure(&FeatureMetric::USUAL) {
            let name = title(metric, network.name());
            match measured {
                Ok(measured) => drop(found.insert(name, measured.into())),
                Err(e) => notes.push(format!("{name} of {what} is left out: {e}")),
            }
        }
        Ok(found)
    };
    let mut metrics = measure(&generated, "the samples")?;
    let copier = measure(&copier, "the copier")?;
    if let (Some(logits), Some(real)) = (&sets.generated.logits, &sets.floor_logits) {
        let splits = (n / SPLIT_ROWS).clamp(2, SPLITS);
        let score = |logits: &Array2<f32>| {
            let score = InceptionScore::of_logits(part(logits).view(), splits, Some(options.seed));
            Ok::<_, Error>(score.map_err(Error::from)?.interval())
        };
        let measured =
            Measured { value: score(logits)?, against_held_out: None, real_vs_train: Some(score(real)?) };
        metrics.insert(format!("inception score({})", network.name()), measured.into());
    }
    let copied = |pairs: &NearestPairs| {
        let copies = pairs.memorized(MEMORIZED_RATIO);
        Share::new(copies.iter().filter(|copy| **copy).count(), copies.len())
    };
    let (copies, false_positives) = (copied(&sets.pairs), copied(&sets.floor_pairs));
    let classes = classes(sets)?;
    let found = verdict::Found {
        network: network.name(),
        copies,
        false_positives,
        metrics: &metrics,
        copier: &copier,
        classes: &classes,
    };
    let (copying, verdict) = found.verdict();
    Ok(Audit {
        verdict,
        copying,
        network: network.name().to_owned(),
        copies,
        false_positives,
        floor: match sets.held_out {
            Some(_) => "held-out images".to_owned(),
            None => "training images that were set aside".to_owned(),
        },
        images: BTreeMap::from([
            ("generated", sets.generated.index.len()),
            (
                "train",
                sets.train.index.len() + if sets.held_out.is_none() { sets.floor_index.len() } else { 0 },
            ),
            ("held_out", sets.held_out.as_ref().map_or(0, |h| h.index.len())),
        ]),
        compared_rows: n,
        compared_pixels: sets.compared,
        metrics,
        copier,
        classes,
        suspects: sets.suspects(&sets.pairs, false),
        floor_suspects: sets.suspects(&sets.floor_pairs, true),
        notes,
    })
}

impl Sets {
    fn readings(&self) -> Vec<String> {
        let all = [
            ("generated", Some(&self.generated)),
            ("train", Some(&self.train)),
            ("held out", self.held_out.as_ref()),
        ];
        let say = |(name, seen): (&str, Option<&sets::Seen>)| {
            let text = seen?.stream.reading().to_string();
            (!text.is_empty()).then(|| format!("{name}: {text}"))
        };
        let mut notes: Vec<String> = all.into_iter().filter_map(say).collect();
        if self.held_out.is_none() {
            notes.push(format!(
                "No held-out images were given: {} training images were set aside to stand for them, and what is said of \
                 real data is of those. Near duplicates within the training images raise that floor.",
                self.floor_index.len()
            ));
        }
        notes
    }

    /// The most alike first.
    fn suspects(&self, pairs: &NearestPairs, floor: bool) -> Vec<Suspect> {
        let (stream, index) = match (floor, &self.held_out) {
            (false, _) => (&self.generated.stream, &self.generated.index),
            (true, Some(held_out)) => (&held_out.stream, &self.floor_index),
            (true, None) => (&self.train.stream, &self.floor_index),
        };
        let ratio = |i: usize| match pairs.second_distance[i] {
            0.0 => 1.0,
            second => pairs.nearest_distance[i] / second,
        };
        let mut order: Vec<usize> = (0..pairs.nearest.len()).collect();
        order.sort_by(|a, b| ratio(*a).total_cmp(&ratio(*b)).then(a.cmp(b)));
        let suspect = |i: usize| Suspect {
            sample: stream.label_of(index[i]),
            nearest: self.train.stream.label_of(pairs.nearest[i]),
            second_nearest: self.train.stream.label_of(pairs.second[i]),
            d1: pairs.nearest_distance[i],
            d2: pairs.second_distance[i],
            ratio: ratio(i),
            places: [index[i], pairs.nearest[i], pairs.second[i]],
        };
        order.into_iter().take(LISTED).map(suspect).collect()
    }
}

/// Shares of the classes among samples and real images, both by the vote of their nearest training images.
fn classes(sets: &Sets) -> Result<Vec<ClassShare>> {
    let Some(labels) = &sets.labels else { return Ok(Vec::new()) };
    let train = &sets.train.features;
    let center = center(train.view());
    let points = |rows: &'_ Array2<f32>| Points::new("features", rows.clone(), center.view());
    let references = points(train).map_err(Error::from)?;
    let votes = |rows: &Array2<f32>| -> Result<BTreeMap<i64, usize>> {
        let queries = points(rows).map_err(Error::from)?;
        let near = cross(&queries, &references, Wanted { k: VOTERS, ..Wanted::default() }).nearest;
        let mut counts = BTreeMap::new();
        for row in near.rows() {
            let mut of_row = BTreeMap::<i64, usize>::new();
            row.iter().for_each(|(_, j)| *of_row.entry(labels[*j as usize]).or_default() += 1);
            // Most votes; of equal ones the nearest.
            let most = of_row.values().copied().max().unwrap_or(0);
            let winner = row.iter().map(|(_, j)| labels[*j as usize]).find(|label| of_row[label] == most);
            winner.into_iter().for_each(|label| *counts.entry(label).or_default() += 1);
        }
        Ok(counts)
    };
    let (generated, real) = (votes(&sets.generated.features)?, votes(&sets.floor_features)?);
    let name = |label: i64| {
        let known = usize::try_from(label).ok().and_then(|l| sets.train.stream.classes.get(l));
        known.cloned().unwrap_or_else(|| label.to_string())
    };
    let all: std::collections::BTreeSet<i64> = labels.iter().copied().collect();
    let share =
        |counts: &BTreeMap<i64, usize>, label, of| Share::new(counts.get(&label).copied().unwrap_or(0), of);
    let class = |label: i64| {
        let generated = share(&generated, label, sets.generated.index.len());
        let real = share(&real, label, sets.floor_index.len());
        ClassShare { class: name(label), generated, real, missing: generated.ci[1] < real.ci[0] / 4.0 }
    };
    Ok(all.into_iter().map(class).collect())
}

/// Where an audit goes by default: `audit`, numbered if it is taken.
pub fn free_audit_folder() -> PathBuf {
    let taken = |p: &PathBuf| p.exists();
    let names = (1..).map(|i| PathBuf::from(if i == 1 { "audit".to_owned() } else { format!("audit-{i}") }));
    names.into_iter().find(|p| !taken(p)).unwrap_or_else(|| PathBuf::from("audit"))
}
