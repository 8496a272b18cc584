//! Held-out minus training loss per noise level.

use crate::PairedSets;
use heldout_core::Mean;
use heldout_core::{Denoiser, Result};
use serde::{Deserialize, Serialize};

/// Denoising losses at one noise level: mean of `(x_start_hat - x_start)^2` over pixels and images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LevelGap {
    /// `ln(alpha^2 / sigma^2)`.
    pub log_snr: f64,
    /// On training images.
    pub train: Mean,
    /// On held-out images.
    pub held_out: Mean,
    /// `held_out - train`; its error is that of the differences between rows of the same noise.
    pub gap: Mean,
}

impl LevelGap {
    /// `gap / held_out`: the share of the held-out loss that is missing on training images.
    pub fn share(&self) -> f64 {
        self.gap.value / self.held_out.value
    }
}

/// The gap at every level of `sets`, at the same draws of noise for both sets; Kadkhodaie et al. 2024, Figure 1.
///
/// A model that generalises has a gap within its error of 0 at every level. A copier's is near 0 where noise is weak or
/// hides all, and largest in between.
pub fn loss_gap(denoiser: &dyn Denoiser, sets: &PairedSets) -> Result<Vec<LevelGap>> {
    let levels = sets.levels(denoiser.schedule())?;
    let at = |level| {
        let [train, held_out] = [&sets.train, &sets.held_out].map(|set| sets.losses(denoiser, set, level));
        let gap = &held_out - &train;
        LevelGap {
            log_snr: level.log_snr,
            train: Mean::of(&train),
            held_out: Mean::of(&held_out),
            gap: Mean::of(&gap),
        }
    };
    Ok(levels.into_iter().map(at).collect())
}
