//! What a run writes down while it goes on: `run.json` and the lines of `metrics.jsonl`.
//!
//! A run folder:
//!
//! ```text
//! recipe.toml                    the recipe as it was resolved
//! run.json                       RunInfo
//! lock                           the number of the process that runs it, or did
//! arms/<arm>-seed<seed>/
//!   task.json                    what its result is a function of, as hashes
//!   arm.toml                     the arm's recipe: what `heldout sample` rebuilds the model from
//!   shape.json                   [C, H, W] of its images, or [C, T, H, W] of its clips
//!   prompts.json                 what its samples show, of a model that is told of texts
//!   metrics.jsonl                one Record a line, in the order of the steps
//!   tensorboard/                 TensorBoard event files
//!   checkpoints/step-00000600/   see heldout-train
//!   samples.png                  a grid of the final samples
//!   final.safetensors            u8 [n, C, H, W]: what FinalSamples measures
//!   final.json                   FinalSamples
//!   arm.json                     ArmResult, when the arm is done
//!   diverged.json                why it never will be
//! superseded/                    folders of arms whose recipe, data or program has changed since; they come back with it
//! metrics.jsonl                  the records of all arms
//! study.json                     StudyResult
//! report.html
//! ```

use heldout_train::Event;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// What is known when a run starts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// The recipe's name.
    pub recipe: String,
    /// What the recipe asks.
    pub question: String,
    /// The command that re-makes this run.
    pub command: String,
    /// The arms, in order.
    pub arms: Vec<String>,
    /// The seeds, in order.
    pub seeds: Vec<u64>,
    /// The data sets, in a line each: name, size, shape, licence.
    pub data: Vec<String>,
    /// Programs and their versions.
    pub versions: BTreeMap<String, String>,
    /// CPU, cores, threads, memory, operating system.
    pub machine: BTreeMap<String, String>,
}
