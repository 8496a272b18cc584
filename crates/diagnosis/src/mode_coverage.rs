//! Which classes the samples show, and how often, beside held-out images.

use heldout_core::{Error, Estimate, Measurement, Result};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Resamples of the bootstrap and of the permutation test.
const RESAMPLES: usize = 1000;

/// The class of every image, by one classifier for all of the sets: its errors are then the same everywhere.
#[derive(Debug, Clone, Copy)]
pub struct Labels<'a> {
    /// Of the samples.
    pub samples: &'a [i64],
    /// Of held-out images.
    pub held_out: &'a [i64],
    /// Of training images, where there are any.
    pub train: Option<&'a [i64]>,
}

/// One class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassShare {
    /// Its number.
    pub class: usize,
    /// Share of the samples, with Wilson's interval.
    pub samples: Estimate,
    /// Share of the held-out images, likewise.
    pub held_out: Estimate,
}

/// A class that held-out images have and samples have not.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct MissingMode {
    /// Its number.
    pub class: usize,
    /// Probability that as many images as there are samples, drawn like the held-out ones, have none of it either.
    pub by_chance: f64,
}

/// How the classes of the samples are distributed, beside those of held-out images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModeCoverage {
    /// Every class.
    pub classes: Vec<ClassShare>,
    /// Classes without a sample.
    pub missing: Vec<MissingMode>,
    /// Classes without a held-out image: whether samples should show them cannot be told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unjudged: Vec<usize>,
    /// Half the sum of the differences between shares, 0 to 1; the floor is that of real images.
    pub total_variation: Measurement,
    /// `KL(samples || held-out)` in nats, with half an image added to each class of both (Krichevsky and Trofimov 1981); the
    /// floor is that of real images.
    pub kl: Measurement,
    /// Probability of a total variation as large as this one if samples and held-out images had the same classes, by
    /// permutation.
    pub p_value: f64,
}

/// Of labels in `0..classes`.
///
/// Intervals are percentile bootstraps over the images of both sets; 1000 resamples. Both distances are above 0 even for equal
/// distributions, since samples are few: the floor has the same bias. It is that of training images, as many as there are
/// samples if there are so many, against the held-out ones; without training labels that of one half of the held-out images
/// against the other, which is larger where these are few.
///
/// Errors: no class, an empty set, a held-out set of one image, a label that is no class.
pub fn mode_coverage(labels: Labels<'_>, classes: usize, seed: u64) -> Result<ModeCoverage> {
    if classes == 0 {
        return Err(Error::config("classes", "0: at least 1 is needed"));
    }
    let samples = checked("samples", labels.samples, classes, 1)?;
    let held_out = checked("held_out", labels.held_out, classes, 2)?;
    let train = labels.train.map(|train| checked("train", train, classes, 1)).transpose()?;
    let mut draws = Draws(ChaCha8Rng::seed_from_u64(seed));
    let (real, other) = match train {
        Some(mut train) => {
            draws.shuffle(&mut train, samples.len());
            train.truncate(samples.len());
            (train, held_out.clone())
        }
        None => {
            let mut halves = held_out.clone();
            let middle = halves.len() / 2;
            draws.shuffle(&mut halves, middle);
            let second = halves.split_off(middle);
            (halves, second)
        }
    };
    let [ours, theirs] = [&samples, &held_out].map(|labels| counts(labels, classes));
    let measured = |draws: &mut Draws, distance: Distance| Measurement {
        against_held_out: None,
        model: estimate(distance, &samples, &held_out, classes, draws),
        floor: estimate(distance, &real, &other, classes, draws),
    };
    let share = |class: usize| ClassShare {
        class,
        samples: Estimate::share(ours[class] as usize, samples.len()),
        held_out: Estimate::share(theirs[class] as usize, held_out.len()),
    };
    let missing = |class: &usize| ours[*class] == 0.0 && theirs[*class] > 0.0;
    let by_chance = |class: usize| {
        let share = theirs[class] / held_out.len() as f64;
        MissingMode { class, by_chance: (1.0 - share).powf(samples.len() as f64) }
    };
    Ok(ModeCoverage {
        classes: (0..classes).map(share).collect(),
        missing: (0..classes).filter(missing).map(by_chance).collect(),
        unjudged: (0..classes).filter(|class| theirs[*class] == 0.0).collect(),
        total_variation: measured(&mut draws, total_variation),
        kl: measured(&mut draws, kl),
        p_value: permutation(&samples, &held_out, classes, &mut draws),
    })
}

fn checked(set: &str, labels: &[i64], classes: usize, least: usize) -> Result<Vec<usize>> {
    if labels.len() < least {
        let reason = format!("{} labels: at least {least} are needed", labels.len());
        return Err(Error::config(set, reason));
    }
    let one = |(row, label): (usize, &i64)| {
        usize::try_from(*label).ok().filter(|label| *label < classes).ok_or_else(|| {
            Error::config(
                set,
                format!("label {label} of image {row} is none of the classes 0 to {}", classes - 1),
            )
        })
    };
    labels.iter().enumerate().map(one).collect()
}

/// Of counts of two sets.
type Distance = fn(&[f64], &[f64]) -> f64;

fn total_variation(a: &[f64], b: &[f64]) -> f64 {
    let (of_a, of_b): (f64, f64) = (a.iter().sum(), b.iter().sum());
    0.5 * a.iter().zip(b).map(|(x, y)| (x / of_a - y / of_b).abs()).sum::<f64>()
}

fn kl(a: &[f64], b: &[f64]) -> f64 {
    let shares = |counts: &[f64]| -> Vec<f64> {
        let whole = counts.iter().sum::<f64>() + 0.5 * counts.len() as f64;
        counts.iter().map(|n| (n + 0.5) / whole).collect()
    };
    shares(a).iter().zip(shares(b)).map(|(p, q)| p * (p / q).ln()).sum()
}

fn counts(labels: &[usize], classes: usize) -> Vec<f64> {
    let mut counts = vec![0.0; classes];
    labels.iter().for_each(|label| counts[*label] += 1.0);
    counts
}

fn estimate(distance: Distance, a: &[usize], b: &[usize], classes: usize, draws: &mut Draws) -> Estimate {
    let value = distance(&counts(a, classes), &counts(b, classes));
    let mut resampled: Vec<f64> =
        (0..RESAMPLES).map(|_| distance(&draws.resample(a, classes), &draws.resample(b, classes))).collect();
    resampled.sort_by(f64::total_cmp);
    let tail = RESAMPLES / 40; // 2.5 %
    Estimate { value, lower: resampled[tail], upper: resampled[RESAMPLES - 1 - tail] }
}

fn permutation(a: &[usize], b: &[usize], classes: usize, draws: &mut Draws) -> f64 {
    let found = total_variation(&counts(a, classes), &counts(b, classes));
    let mut pool = [a, b].concat();
    let as_large = (0..RESAMPLES).filter(|_| {
        draws.shuffle(&mut pool, a.len());
        let (first, second) = pool.split_at(a.len());
        total_variation(&counts(first, classes), &counts(second, classes)) >= found - 1e-12
    });
    (1 + as_large.count()) as f64 / (1 + RESAMPLES) as f64
}

struct Draws(ChaCha8Rng);

impl Draws {
    /// Multiply-shift of 32 random bits onto `0..n`: its bias is below `n / 2^32`.
    fn below(&mut self, n: usize) -> usize {
        ((u64::from(self.0.next_u32()) * n as u64) >> 32) as usize
    }

    /// The first `first` places get a random subset of all, in random order; Fisher and Yates.
    fn shuffle(&mut self, labels: &mut [usize], first: usize) {
        for i in 0..first.min(labels.len()) {
            let j = i + self.below(labels.len() - i);
            labels.swap(i, j);
        }
    }

    /// Counts of as many labels, drawn with replacement.
    fn resample(&mut self, labels: &[usize], classes: usize) -> Vec<f64> {
        let mut counts = vec![0.0; classes];
        (0..labels.len()).for_each(|_| counts[labels[self.below(labels.len())]] += 1.0);
        counts
    }
}
