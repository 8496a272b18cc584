//! `heldout audit`: whether a set of generated images copies its training images, and how it stands beside real ones.

mod measured;
mod page;
mod seen;
mod sets;
mod verdict;

use crate::feature_metrics::MetricRow;
use anyhow::Result;
use heldout_core::{Error, Estimate, FeatureExtractor};
use heldout_data::{ImageStream, PixelRange};
use heldout_diagnosis::{Labels, ModeCoverage, mode_coverage};
use heldout_metrics::{MEMORIZED_RATIO, NearestPairs, Options, Points, Wanted, center, cross};
use heldout_train::write_atomically;
use measured::{Tables, measured};
use ndarray::Array2;
use serde::Serialize;
use sets::{Leak, Sets, Streams, class_name, see_all};
use std::collections::{BTreeMap, BTreeSet};
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
    /// As `generated`; without it a tenth of the training images, about 1,000 at most, stands in.
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
        let Estimate { value, lower, upper } = Estimate::share(count, of);
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
    /// The same for programs: `copies`, `few_copies`, `suspicious`, `held_out_overlaps`, `no_copies`.
    pub copying: Finding,
    /// The feature network.
    pub network: String,
    /// Samples that are near copies of a training image, flips and shifts by a pixel included; a little brightness does not hide one.
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
    /// Distances of the classes' shares from those of real images, beside their floor; where there are labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modes: Option<ModeCoverage>,
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
    let Tables { samples: metrics, copier, n, notes: of_metrics } = measured(options, network.name(), sets)?;
    notes.extend(of_metrics);
    let copied = |pairs: &NearestPairs| {
        let copies = pairs.memorized(MEMORIZED_RATIO);
        Share::new(copies.iter().filter(|copy| **copy).count(), copies.len())
    };
    let (copies, false_positives) = (copied(&sets.pairs), copied(&sets.floor_pairs));
    let (classes, modes) = classes(sets, options.seed)?.unzip();
    let classes = classes.unwrap_or_default();
    notes.extend(unjudged(sets, &classes, modes.as_ref()));
    let floor = match sets.streams.held_out {
        Some(_) => "held-out images",
        None => "training images that were set aside",
    };
    let found = verdict::Found {
        floor,
        leak: sets.leak,
        network: network.name(),
        copies,
        false_positives,
        metrics: &metrics,
        copier: &copier,
        classes: &classes,
    };
    let (copying, verdict) = found.verdict();
    let counted = |train, held_out| {
        BTreeMap::from([("generated", sets.generated.index.len()), ("train", train), ("held_out", held_out)])
    };
    Ok(Audit {
        verdict,
        copying,
        network: network.name().to_owned(),
        copies,
        false_positives,
        floor: floor.to_owned(),
        images: match sets.streams.held_out {
            Some(_) => counted(sets.train.index.len(), sets.leak.of),
            None => counted(sets.train.index.len() + sets.leak.of, 0),
        },
        compared_rows: n,
        compared_pixels: sets.compared,
        metrics,
        copier,
        classes,
        modes,
        suspects: sets.suspects(&sets.pairs, false),
        floor_suspects: sets.suspects(&sets.floor_pairs, true),
        notes,
    })
}

impl Sets {
    fn readings(&self) -> Vec<String> {
        let Streams { generated, train, held_out } = &self.streams;
        let all = [("generated", Some(generated)), ("train", Some(train)), ("held out", held_out.as_ref())];
        let say = |(name, stream): (&str, Option<&ImageStream>)| {
            let text = stream?.reading().to_string();
            (!text.is_empty()).then(|| format!("{name}: {text}"))
        };
        let mut notes: Vec<String> = all.into_iter().filter_map(say).collect();
        if held_out.is_none() {
            notes.push(format!(
                "No held-out images were given: {} training images were set aside to stand for them, and what is said of \
                 real data is of those. Near duplicates within the training images raise that floor.",
                self.floor.index.len()
            ));
        }
        if let Leak { count, of, left_out: true } = self.leak {
            let set = if held_out.is_some() { "held-out images" } else { "images that were set aside" };
            notes.push(format!(
                "{count} of {of} {set} equal a training image, flips and shifts by a pixel included: they are no sign of what \
                 is new, and are left out."
            ));
        }
        notes
    }

    /// The most alike first.
    fn suspects(&self, pairs: &NearestPairs, floor: bool) -> Vec<Suspect> {
        let (stream, index) = match floor {
            false => (&self.streams.generated, &self.generated.index),
            true => (self.floor_stream(), &self.floor.index),
        };
        let train = &self.streams.train;
        let ratio = |i: usize| match pairs.nearest_distance[i] {
            0.0 => 0.0,
            nearest => nearest / pairs.second_distance[i],
        };
        let mut order: Vec<usize> = (0..pairs.nearest.len()).collect();
        order.sort_by(|a, b| ratio(*a).total_cmp(&ratio(*b)).then(a.cmp(b)));
        let suspect = |i: usize| Suspect {
            sample: stream.label_of(index[i]),
            nearest: train.label_of(pairs.nearest[i]),
            second_nearest: train.label_of(pairs.second[i]),
            d1: pairs.nearest_distance[i],
            d2: pairs.second_distance[i],
            ratio: ratio(i),
            places: [index[i], pairs.nearest[i], pairs.second[i]],
        };
        order.into_iter().take(LISTED).map(suspect).collect()
    }
}

/// What cannot be said of classes that no real image has: by its own labels, or else by the vote.
fn unjudged(sets: &Sets, classes: &[ClassShare], modes: Option<&ModeCoverage>) -> Option<String> {
    let own = sets.floor_classes();
    let absent = |i: usize| match &own {
        Some(own) => !own.contains(&classes[i].class),
        None => modes.is_some_and(|modes| modes.unjudged.contains(&i)),
    };
    let names: Vec<&str> =
        (0..classes.len()).filter(|i| absent(*i)).map(|i| classes[i].class.as_str()).collect();
    (!names.is_empty()).then(|| {
        let names = names.join(", ");
        format!("No held-out image is of {names}: whether samples should be cannot be told.")
    })
}

/// Classes of samples and of real images, both by the vote of their nearest training images.
fn classes(sets: &Sets, seed: u64) -> Result<Option<(Vec<ClassShare>, ModeCoverage)>> {
    let Some(labels) = sets.labels() else { return Ok(None) };
    let known: Vec<i64> = BTreeSet::from_iter(labels.iter().copied()).into_iter().collect();
    let train = sets.train.features.view();
    let center = center(train);
    let references = Points::new("train", train, center.view()).map_err(Error::from)?;
    let votes = |rows: &Array2<f32>| -> Result<Vec<i64>> {
        let queries = Points::new("features", rows.view(), center.view()).map_err(Error::from)?;
        let near = cross(&queries, &references, Wanted { k: VOTERS, ..Wanted::default() }).nearest;
        let winner = |row: &[(f64, u32)]| {
            let votes: Vec<i64> = row.iter().map(|(_, j)| labels[*j as usize]).collect();
            let count = |label: &i64| votes.iter().filter(|v| *v == label).count();
            // Most votes; of equal ones the nearest, which comes first.
            let winner = votes.iter().rev().max_by_key(|label| count(label)).copied().unwrap_or_default();
            known.binary_search(&winner).unwrap_or_default() as i64
        };
        Ok(near.rows().map(winner).collect())
    };
    let (generated, real) = (votes(&sets.generated.features)?, votes(&sets.floor.features)?);
    let of_sets = Labels { samples: &generated, held_out: &real, train: None };
    let coverage = mode_coverage(of_sets, known.len(), seed)?;
    let name = |class: usize| class_name(&sets.streams.train, known[class]);
    let count = |labels: &[i64], class: usize| {
        Share::new(labels.iter().filter(|l| **l == class as i64).count(), labels.len())
    };
    let class = |class: usize| {
        let (generated, real) = (count(&generated, class), count(&real, class));
        ClassShare { class: name(class), missing: generated.ci[1] < real.ci[0] / 4.0, generated, real }
    };
    Ok(Some(((0..known.len()).map(class).collect(), coverage)))
}

/// Where an audit goes by default: `audit`, numbered if it is taken.
pub fn free_audit_folder() -> PathBuf {
    let taken = |p: &PathBuf| p.exists();
    let names = (1..).map(|i| PathBuf::from(if i == 1 { "audit".to_owned() } else { format!("audit-{i}") }));
    names.into_iter().find(|p| !taken(p)).unwrap_or_else(|| PathBuf::from("audit"))
}
