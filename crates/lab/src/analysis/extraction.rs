//! How many training images come out again, by how often each was seen.

use super::Evidence;
use crate::recipe::Study;
use crate::result::FinalSamples;
use crate::run::read_json;
use anyhow::Result;
use heldout_core::Error;
use heldout_data::multiplicity;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A sample is a copy of its nearest training image where f_mem counts it as one: nearer than a third of the distance to the
/// next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExtractionConfig {}

/// The training images of one arm and seed that stand as often in an epoch.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExtractionPoint {
    /// The arm.
    pub arm: String,
    /// Its seed.
    pub seed: u64,
    /// How often they stand in an epoch.
    pub times: usize,
    /// How many they are.
    pub images: usize,
    /// How many of them came out at least once.
    pub extracted: usize,
    /// Samples that are copies of them.
    pub copies: usize,
    /// Samples that were drawn.
    pub samples: usize,
}

/// All groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ExtractionAnalysis {
    /// One per arm, seed and multiplicity.
    pub points: Vec<ExtractionPoint>,
    /// The share of held-out images that would count as copies: the floor, its largest value.
    pub floor: f64,
}

impl ExtractionConfig {
    pub(super) fn check(&self, study: &Study) -> heldout_core::Result<()> {
        if study.arms.iter().any(|(_, recipe)| !recipe.data.repeat.is_empty()) {
            return Ok(());
        }
        Err(Error::config("kind", "extraction, where no arm repeats images: set data.repeat"))
    }

    pub(super) fn run(&self, evidence: &Evidence<'_>) -> Result<ExtractionAnalysis> {
        let mut points = Vec::new();
        for arm in evidence.arms {
            let Some((_, recipe)) = evidence.study.arms.iter().find(|(name, _)| *name == arm.name) else {
                continue;
            };
            let path = evidence.folder(arm).join("final.json");
            let found: FinalSamples = read_json(&path)?;
            if found.nearest_place.len() != found.nearest.len() {
                let reason = "names no places of training images: run the arm again";
                return Err(Error::file(&path, reason).into());
            }
            let mut copies = vec![0; arm.n_train];
            let distances = found.nearest.iter().zip(&found.second_nearest).zip(&found.nearest_place);
            for ((nearest, second), place) in distances {
                if nearest * 3.0 < *second {
                    let of = copies.get_mut(*place);
                    *of.ok_or_else(|| Error::file(&path, format!("nearest_place {place} is no image")))? += 1;
                }
            }
            let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (times, copies) in multiplicity(&recipe.data.repeat, arm.n_train).into_iter().zip(copies) {
                groups.entry(times).or_default().push(copies);
            }
            points.extend(groups.into_iter().map(|(times, copies)| ExtractionPoint {
                arm: arm.name.clone(),
                seed: arm.seed,
                times,
                images: copies.len(),
                extracted: copies.iter().filter(|c| **c > 0).count(),
                copies: copies.iter().sum(),
                samples: found.nearest.len(),
            }));
        }
        let floor = evidence.arms.iter().map(|a| a.f_mem_floor).fold(0.0, f64::max);
        Ok(ExtractionAnalysis { points, floor })
    }
}

impl ExtractionAnalysis {
    /// Share of images that came out and copies by image, over all seeds of an arm, by multiplicity.
    pub(crate) fn shares(&self, arm: &str) -> Vec<(usize, f64, f64)> {
        let mut sums: BTreeMap<usize, [usize; 3]> = BTreeMap::new();
        for p in self.points.iter().filter(|p| p.arm == arm) {
            let sum = sums.entry(p.times).or_default();
            *sum = [sum[0] + p.images, sum[1] + p.extracted, sum[2] + p.copies];
        }
        let share = |(times, [images, extracted, copies]): (usize, [usize; 3])| {
            (times, extracted as f64 / images as f64, copies as f64 / images as f64)
        };
        sums.into_iter().map(share).collect()
    }

    /// The arms, in order.
    pub(crate) fn arms(&self) -> Vec<&str> {
        let mut arms: Vec<&str> = self.points.iter().map(|p| p.arm.as_str()).collect();
        arms.dedup();
        let mut seen = Vec::new();
        arms.retain(|a| {
            !seen.contains(a) && {
                seen.push(a);
                true
            }
        });
        arms
    }

    pub(super) fn answer(&self) -> String {
        let clause = |arm: &str| {
            let shares = self.shares(arm);
            let told = shares.iter().map(|(times, share, by_image)| {
                format!(
                    "{:.0} % of images that stand {times}x ({by_image:.2} copies by image)",
                    100.0 * share
                )
            });
            let rises = shares.len() > 1
                && shares.windows(2).all(|w| w[0].1 <= w[1].1)
                && shares[0].1 < shares[shares.len() - 1].1;
            let grows = match (shares.len(), rises) {
                (0 | 1, _) => "",
                (_, true) => ", rising with multiplicity",
                (_, false) => ", not rising with multiplicity throughout",
            };
            format!("{arm}: what came out is {}{grows}", told.collect::<Vec<_>>().join(", "))
        };
        let clauses: Vec<String> = self.arms().into_iter().map(clause).collect();
        format!("{}. {:.3} of held-out images would count as copies.", clauses.join("; "), self.floor)
    }
}
