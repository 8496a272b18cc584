//! What a run ends with: `arm.json`, `final.json`, `study.json`.

use crate::adapter::AdapterResult;
use crate::analysis::AnalysisResult;
use crate::compare::Comparison;
use crate::compose::ComposedResult;
use heldout_core::Measurement;
use heldout_train::Event;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `study.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StudyResult {
    /// Version of this format.
    pub format: u32,
    /// The recipe's name.
    pub recipe: String,
    /// What it asks.
    pub question: String,
    /// The answer in a sentence.
    pub verdict: String,
    /// One per arm and seed that ended.
    pub arms: Vec<ArmResult>,
    /// Every arm beside the baseline, where the recipe names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comparison: Option<Comparison>,
    /// What the recipe asks beyond that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub analysis: Option<AnalysisResult>,
    /// Those that have no result.
    pub failures: Vec<ArmFailure>,
}

/// An arm that has no result with this seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArmFailure {
    /// The arm's name.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// Why, in a sentence.
    pub reason: String,
    /// Whether the loss stopped being a number: it is not tried again.
    pub diverged: bool,
}

/// The outcome of one arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArmResult {
    /// The arm's name.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// Training images.
    pub n_train: usize,
    /// Steps done.
    pub steps: u64,
    /// Memorised fraction of the final samples (averaged weights).
    pub f_mem: f64,
    /// Its bootstrap 95 % interval.
    pub f_mem_ci: [f64; 2],
    /// The same fraction for held-out real images.
    pub f_mem_floor: f64,
    /// Its bootstrap 95 % interval.
    pub f_mem_floor_ci: [f64; 2],
    /// The same for samples of the closed-form denoiser of this arm's training set: what a copier scores.
    pub f_mem_copier: f64,
    /// Memorised fraction, with its floor, where flipped and shifted training images count as the image.
    pub f_mem_transformed: Measurement,
    /// How good the final samples are.
    pub quality: QualityResult,
    /// Of clips: the same distance of the changes from frame to frame, beside those of held-out clips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub motion: Option<QualityResult>,
    /// What `monitor.metrics` asks for, of the final samples, by name and network.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, Measurement>,
    /// Of a model of latents: which of autoencoder and diffusion copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<LatentCopies>,
    /// Of an adapter that looks at hints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterResult>,
    /// Of samples that were asked for combinations of conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub composed: Option<ComposedResult>,
    /// Mean over noise levels of the denoising loss on training images (averaged weights).
    pub loss_train: f64,
    /// The same on held-out images.
    pub loss_held_out: f64,
    /// Both per noise level, and the held-out loss minus the training loss.
    pub gap_by_level: Vec<LevelGap>,
    /// Wall-clock seconds of the arm, evaluation included.
    pub seconds: f64,
    /// Largest resident memory of the process so far.
    pub peak_rss_bytes: u64,
    /// Trained numbers.
    pub parameters: usize,
    /// What the last digits depend on besides recipe, seed and data; absent in files of before it was kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made_on: Option<MadeOn>,
    /// Why it ended before its last step, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// Where an arm was made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct MadeOn {
    /// As libtorch names it.
    pub device: String,
    /// Of libtorch.
    pub threads: usize,
    /// Its version.
    pub libtorch: String,
}

impl MadeOn {
    /// This process.
    pub(crate) fn here(device: tch::Device) -> Self {
        Self {
            device: format!("{device:?}"),
            threads: usize::try_from(tch::get_num_threads()).unwrap_or(1),
            libtorch: heldout_torch_ext::libtorch_version().to_owned(),
        }
    }
}

/// The distance of the final samples to held-out images; low is good.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct QualityResult {
    /// Which distance.
    pub metric: String,
    /// Of the samples.
    pub value: f64,
    /// Between two halves of the held-out images.
    pub floor: f64,
}

impl QualityResult {
    /// Of an [`Event::Quality`].
    pub(crate) fn of(event: Event) -> Option<Self> {
        match event {
            Event::Quality { metric, value, floor, .. } => Some(Self { metric, value, floor }),
            _ => None,
        }
    }
}

/// Whether the autoencoder or the diffusion of a latent model copies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LatentCopies {
    /// Memorised fraction among latents, with its floor.
    pub f_mem: Measurement,
    /// Memorised fraction of the autoencoder's own images of held-out ones, beside that of the held-out images: above it, the
    /// autoencoder turns new images into training images.
    pub autoencoder: Measurement,
    /// Peak signal-to-noise ratio of those images, in dB.
    pub psnr: f64,
}

/// Losses at one noise level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LevelGap {
    /// `ln(alpha^2 / sigma^2)`.
    pub log_snr: f64,
    /// Training loss.
    pub train: f64,
    /// Held-out loss.
    pub held_out: f64,
    /// `held_out - train`.
    pub gap: f64,
}

/// `final.json`: distances of the images in `final.safetensors`, row by row, pixels in `[-1, 1]`.
///
/// The tensors, u8 `[n, C, H, W]`: `samples`, `nearest`, `second_nearest`, and the same for held-out real images under
/// `held_out`, `held_out_nearest`, `held_out_second_nearest`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalSamples {
    /// Euclidean distance of each sample to the nearest training image.
    pub nearest: Vec<f64>,
    /// Place of that image in the training set; empty in files of before it was kept.
    #[serde(default)]
    pub nearest_place: Vec<usize>,
    /// To the second-nearest distinct one.
    pub second_nearest: Vec<f64>,
    /// Distance of each held-out image to the nearest training image.
    pub held_out_nearest: Vec<f64>,
    /// To the second-nearest.
    pub held_out_second_nearest: Vec<f64>,
}
