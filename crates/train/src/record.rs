//! What observers report.

use heldout_core::{Measurement, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// The name of the weights that the optimiser moves, beside those of their averages.
pub const LIVE: &str = "live";

/// Something that an observer saw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    /// Means over the training steps since the last such event.
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
    /// Denoising loss `mean (x_start_hat - x_start)^2` at fixed noise, per noise level. Of several at one step the last is
    /// of the weights that count.
    Validation {
        /// Which weights: [`LIVE`], or the name of an average.
        weights: String,
        /// The noise levels, from much noise to little.
        log_snr: Vec<f64>,
        /// On training images, per level.
        train: Vec<f64>,
        /// On held-out images, per level.
        held_out: Vec<f64>,
    },
    /// How samples relate to training and held-out images.
    Metric {
        /// `f_mem`; `f_mem_transformed` where flipped and shifted copies count too; `FD(EfficientNet-Lite0)`, ..
        metric: String,
        /// How many samples were drawn.
        samples: usize,
        /// The model and the floor.
        #[serde(flatten)]
        measurement: Measurement,
    },
    /// How far samples are from held-out images.
    Quality {
        /// The distance, as `energy_distance`.
        metric: String,
        /// How many samples were drawn.
        samples: usize,
        /// Generated against held-out images; lower is better.
        value: f64,
        /// The floor: one half of the held-out images against the other.
        floor: f64,
    },
    /// How well an autoencoder gives images back.
    Reconstruction {
        /// `PSNR`, `SSIM`, `L1`.
        metric: String,
        /// Of training images.
        train: f64,
        /// Of as many held-out ones.
        held_out: f64,
    },
    /// Something a reader should know: a skipped step, an early stop, a damaged checkpoint.
    Note {
        /// In a sentence.
        message: String,
    },
}

/// Takes events down.
pub trait Sink: Debug {
    /// `step` steps are done.
    fn write(&self, step: u64, event: Event) -> Result<()>;
}
