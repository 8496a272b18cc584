//! What a run writes down: the lines of `metrics.jsonl`, `run.json`, and `result.json`.
//!
//! A run folder:
//!
//! ```text
//! recipe.toml                   the recipe as it was resolved
//! run.json                      RunInfo
//! metrics.jsonl                 one Record a line, in the order of the steps, arm after arm
//! tensorboard/<arm>-seed<seed>/ TensorBoard event files
//! arms/<arm>-seed<seed>/
//!   checkpoints/step-000600/    see heldout-train
//!   samples.png                 a grid of the final samples
//!   final.safetensors           u8 [n, C, H, W]: samples, nearest, second_nearest; u8 held_out, held_out_nearest
//!   final.json                  FinalSamples
//!   arm.json                    ArmResult, when the arm is done
//! result.json                   RunResult
//! report.html
//! ```

use heldout_core::{Estimate, Measurement};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The weights that were evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weights {
    /// Those that the optimiser moves.
    Live,
    /// Their exponential moving average.
    Ema,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The arm's name, as in the recipe.
    pub arm: String,
    /// The arm's seed.
    pub seed: u64,
    /// Steps done when it was written.
    pub step: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// What a [`Record`] says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Means over the training steps since the last such record.
    Train {
        /// The training loss, all terms.
        loss: f64,
        /// Its named terms, and `grad_norm`.
        terms: BTreeMap<String, f64>,
        /// The learning rate of the last step.
        learning_rate: f64,
        /// Steps that were skipped for a non-finite loss or gradient, since the start.
        skipped: u64,
    },
    /// Denoising loss `mean |x_start_hat - x_start|^2` at fixed noise, per noise level.
    Validation {
        /// Which weights.
        weights: Weights,
        /// The noise levels, falling noise upwards in log SNR.
        log_snr: Vec<f64>,
        /// On training images, per level.
        train: Vec<f64>,
        /// On held-out images, per level.
        held_out: Vec<f64>,
    },
    /// How many samples are copies.
    Memorization {
        /// `f_mem`, or `f_mem_transformed` for flipped and shifted copies too.
        metric: String,
        /// How many samples were drawn.
        samples: usize,
        /// The model and the floor.
        #[serde(flatten)]
        measurement: Measurement,
    },
    /// Something a reader should know: a skipped step, an early stop, a damaged checkpoint.
    Note {
        /// In a sentence.
        message: String,
    },
}

/// What is known when a run starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The recipe's name.
    pub recipe: String,
    /// What the recipe asks.
    pub question: String,
    /// The command that re-makes this run.
    pub command: String,
    /// The seeds, in order.
    pub seeds: Vec<u64>,
    /// The data set in a line: name, size, shape, licence.
    pub data: String,
    /// Programs and their versions.
    pub versions: BTreeMap<String, String>,
    /// CPU, cores, threads, memory, operating system.
    pub machine: BTreeMap<String, String>,
}

/// `result.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Version of this format.
    pub format: u32,
    /// The recipe's name.
    pub recipe: String,
    /// What it asks.
    pub question: String,
    /// The answer in a sentence.
    pub verdict: String,
    /// One per arm and seed.
    pub arms: Vec<ArmResult>,
}

/// The outcome of one arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ArmResult {
    /// The arm's name.
    pub name: String,
    /// Its seed.
    pub seed: u64,
    /// Training images.
    pub n_train: usize,
    /// Steps done.
    pub steps: u64,
    /// Memorised fraction of the final samples (EMA weights).
    pub f_mem: f64,
    /// Its bootstrap 95 % interval.
    pub f_mem_ci: [f64; 2],
    /// The same fraction for held-out real images.
    pub f_mem_floor: f64,
    /// Its bootstrap 95 % interval.
    pub f_mem_floor_ci: [f64; 2],
    /// The same for samples of the closed-form memorising denoiser of this arm's training set: what a copier scores.
    pub f_mem_copier: f64,
    /// Memorised fraction when flipped and shifted training images count as the image.
    pub f_mem_transformed: Measurement,
    /// Mean over noise levels of the denoising loss on training images (EMA weights).
    pub loss_train: f64,
    /// The same on held-out images.
    pub loss_held_out: f64,
    /// Held-out minus training loss, per noise level.
    pub gap_by_level: Vec<LevelGap>,
    /// Wall-clock seconds of the arm, evaluation included.
    pub seconds: f64,
    /// Largest resident memory of the process so far.
    pub peak_rss_bytes: u64,
    /// Trained numbers.
    pub parameters: usize,
    /// Why it ended before its last step, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
}

/// Losses at one noise level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
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

/// `final.json`: the samples in `final.safetensors`, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FinalSamples {
    /// Euclidean distance to the nearest training image, pixels in `[-1, 1]`.
    pub nearest: Vec<f64>,
    /// To the second-nearest distinct one.
    pub second_nearest: Vec<f64>,
    /// Distance of held-out images to their nearest training image.
    pub held_out_nearest: Vec<f64>,
    /// To the second-nearest.
    pub held_out_second_nearest: Vec<f64>,
}

/// An interval as JSON writes it.
pub fn interval(e: &Estimate) -> [f64; 2] {
    [e.lower, e.upper]
}
