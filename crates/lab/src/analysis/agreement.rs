//! Whether two models that share no training image draw the same images from the same noise.

use super::{Evidence, summary};
use crate::recipe::{Place, Recipe, Study};
use crate::result::ArmResult;
use anyhow::Result;
use heldout_core::Error;
use heldout_samplers::SamplerConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use tch::{Kind, Tensor};

/// Two arms of the recipe's, paired at every place of its grid. The noise of their samples is the same for a seed, so that the
/// sampler must draw none of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgreementConfig {
    /// Name of an arm.
    pub first: String,
    /// Name of the other, whose training images are others.
    pub second: String,
}

/// A pair with one seed. Similarities are cosines of images whose own mean was taken away, averaged over the samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgreementPoint {
    /// Training images of each.
    pub n: usize,
    /// The seed.
    pub seed: u64,
    /// Of samples of both from the same noise.
    pub agreement: f64,
    /// Of samples of both from different noise: what any two images of the kind have in common.
    pub floor: f64,
    /// Of samples and their nearest training images, mean of both models.
    pub nearest: f64,
    /// Of held-out images and their nearest training images: the floor of that.
    pub nearest_floor: f64,
}

/// All pairs, and where the curves cross.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgreementAnalysis {
    /// One per number of training images and seed.
    pub points: Vec<AgreementPoint>,
    /// Numbers of training images, next to each other, between which agreement rises above the similarity to training images,
    /// means over seeds; none if it does not.
    pub crossing: Option<[usize; 2]>,
}

impl AgreementConfig {
    pub(super) fn check(&self, study: &Study) -> heldout_core::Result<()> {
        let find =
            |name: &str| study.arms.iter().zip(&study.places).find(|(_, p)| p.arm.as_deref() == Some(name));
        for (field, name) in [("first", &self.first), ("second", &self.second)] {
            let Some(((_, recipe), _)) = find(name) else {
                return Err(Error::config(field, format!("`{name}` is no arm of the recipe")));
            };
            if recipe.sample.sampler != (SamplerConfig::Ddim { eta: 0.0 }) {
                let reason = "two models must share all noise: use { kind = \"ddim\", eta = 0.0 }";
                return Err(Error::config("sample.sampler", reason));
            }
        }
        for ((_, one), place) in study.arms.iter().zip(&study.places) {
            let Some((_, other)) = self.partner(study, place) else { continue };
            let (a, b) = (one.data.split, other.data.split);
            let apart = a.skip + a.n_train <= b.skip || b.skip + b.n_train <= a.skip;
            if !apart {
                let reason = format!(
                    "{} to {} and {} to {}: training images of both arms: set data.split.skip",
                    a.skip,
                    a.skip + a.n_train,
                    b.skip,
                    b.skip + b.n_train
                );
                return Err(Error::config("second", reason));
            }
        }
        Ok(())
    }

    /// The second arm at the place of a first one.
    fn partner<'a>(&self, study: &'a Study, place: &Place) -> Option<&'a (String, Recipe)> {
        if place.arm.as_deref() != Some(self.first.as_str()) {
            return None;
        }
        let same = |p: &Place| p.arm.as_deref() == Some(self.second.as_str()) && p.values == place.values;
        study.arms.iter().zip(&study.places).find(|(_, p)| same(p)).map(|(arm, _)| arm)
    }

    pub(super) fn run(&self, evidence: &Evidence<'_>) -> Result<AgreementAnalysis> {
        let study = evidence.study;
        let mut points = Vec::new();
        for ((name, _), place) in study.arms.iter().zip(&study.places) {
            let Some((other, _)) = self.partner(study, place) else { continue };
            for a in evidence.arms.iter().filter(|a| a.name == *name) {
                let Some(b) = evidence.arms.iter().find(|b| b.name == *other && b.seed == a.seed) else {
                    continue;
                };
                points.push(point(evidence, a, b)?);
            }
        }
        points.sort_by_key(|p| (p.n, p.seed));
        let mut sizes: Vec<usize> = points.iter().map(|p| p.n).collect();
        sizes.dedup();
        let leads = |n: usize| {
            let of = points.iter().filter(|p| p.n == n);
            summary(&of.map(|p| p.agreement - p.nearest).collect::<Vec<_>>())[0]
        };
        let crossing = sizes.windows(2).find(|w| leads(w[0]) <= 0.0 && leads(w[1]) > 0.0);
        Ok(AgreementAnalysis { crossing: crossing.map(|w| [w[0], w[1]]), points })
    }
}

/// Rows of unit length without their own mean.
fn centred(images: &Tensor) -> Tensor {
    let rows = images.flatten(1, -1).to_kind(Kind::Double);
    let rows = &rows - rows.mean_dim(1, true, Kind::Double);
    &rows / rows.norm_scalaropt_dim(2.0, 1, true).clamp_min(1e-12)
}

fn similarity(a: &Tensor, b: &Tensor) -> f64 {
    (centred(a) * centred(b)).sum_dim_intlist(1, false, Kind::Double).mean(Kind::Double).double_value(&[])
}

fn point(evidence: &Evidence<'_>, a: &ArmResult, b: &ArmResult) -> Result<AgreementPoint> {
    let (first, second) = (read(&evidence.folder(a))?, read(&evidence.folder(b))?);
    let of = |side: &[(String, Tensor)], name: &str| {
        side.iter().find(|(n, _)| n == name).map(|(_, t)| t.shallow_clone()).unwrap_or_default()
    };
    let near = |side: &[(String, Tensor)]| similarity(&of(side, "samples"), &of(side, "nearest"));
    let near_floor =
        |side: &[(String, Tensor)]| similarity(&of(side, "held_out"), &of(side, "held_out_nearest"));
    let (x, y) = (of(&first, "samples"), of(&second, "samples"));
    Ok(AgreementPoint {
        n: a.n_train,
        seed: a.seed,
        agreement: similarity(&x, &y),
        floor: similarity(&x, &y.roll(1, 0)),
        nearest: 0.5 * (near(&first) + near(&second)),
        nearest_floor: 0.5 * (near_floor(&first) + near_floor(&second)),
    })
}

fn read(folder: &Path) -> Result<Vec<(String, Tensor)>> {
    let path = folder.join("final.safetensors");
    Ok(Tensor::read_safetensors(&path).map_err(|e| Error::file(&path, format!("damaged: {e}")))?)
}

impl AgreementAnalysis {
    /// Means over the seeds of one number of training images: agreement, its floor, similarity to the nearest, its floor.
    pub(crate) fn means(&self) -> Vec<(usize, [f64; 4])> {
        let groups = self.points.chunk_by(|a, b| a.n == b.n);
        let mean = |group: &[AgreementPoint], of: fn(&AgreementPoint) -> f64| {
            summary(&group.iter().map(of).collect::<Vec<_>>())[0]
        };
        let all = |g: &[AgreementPoint]| {
            [
                mean(g, |p| p.agreement),
                mean(g, |p| p.floor),
                mean(g, |p| p.nearest),
                mean(g, |p| p.nearest_floor),
            ]
        };
        groups.map(|g| (g[0].n, all(g))).collect()
    }

    pub(super) fn answer(&self) -> String {
        let means = self.means();
        let (Some((small, low)), Some((large, high))) = (means.first(), means.last()) else {
            return "No pair of arms has results.".to_owned();
        };
        let told = |n: usize, m: &[f64; 4]| {
            format!(
                "with {n} images each, two models draw images with a cosine of {:.2} from the same noise (floor {:.2}), and of {:.2} to their nearest training images (floor {:.2})",
                m[0], m[1], m[2], m[3]
            )
        };
        let crossing = match self.crossing {
            Some([a, b]) => format!("The curves cross between {a} and {b} images"),
            None => "The curves do not cross here".to_owned(),
        };
        format!("{crossing}: {}; {}.", told(*small, low), told(*large, high))
    }
}
