//! What changes the weights after the step, or keeps others for evaluation.

mod average;
mod decay;
mod lookahead;
mod normalization;
mod post_hoc;
mod reptile;
mod swa;

pub use average::{AverageConfig, Averaged};
pub use decay::{EmaDecay, PowerDecay};
pub use lookahead::{Lookahead, LookaheadConfig};
pub use normalization::{WeightNormalization, WeightNormalizationConfig};
pub use post_hoc::{Profile, reconstruct};
pub use reptile::{Reptile, ReptileConfig};
pub use swa::{BatchStatistics, SwaConfig, SwaDecay, SwaRate};

use heldout_core::{Error, Result, Update};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A technique on the weights as a recipe writes it; each works on the update of those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum WeightsTechnique {
    /// [`Averaged`] with an exponential decay.
    Ema(AverageConfig),
    /// [`Averaged`] with [`PowerDecay`].
    PowerEma(PowerEmaConfig),
    /// [`Averaged`] with [`SwaDecay`].
    Swa(SwaConfig),
    /// [`Lookahead`].
    Lookahead(LookaheadConfig),
    /// [`Reptile`].
    Reptile(ReptileConfig),
    /// [`WeightNormalization`].
    Normalization(WeightNormalizationConfig),
}

/// Settings of a power-function average.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PowerEmaConfig {
    /// Its width as a share of the run so far, `sigma_rel`: 0.05 and 0.10 in the paper.
    pub width: f64,
    /// As in records and checkpoints; `power_ema WIDTH` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl PowerEmaConfig {
    /// Its name.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| format!("power_ema {}", self.width))
    }
}

impl WeightsTechnique {
    /// Which field cannot be honoured with batches of `batch_size`.
    pub fn check(&self, batch_size: usize) -> Result<()> {
        match self {
            Self::Ema(config) => config.check(),
            Self::PowerEma(config) => PowerDecay::of_width(config.width).map(|_| ()),
            Self::Swa(config) => config.check(),
            Self::Lookahead(config) => config.check(),
            Self::Reptile(config) => config.check(batch_size),
            Self::Normalization(config) => config.check(),
        }
    }

    /// The name of the average that it keeps, if it keeps one.
    pub fn average(&self) -> Option<String> {
        match self {
            Self::Ema(config) => Some(config.name()),
            Self::PowerEma(config) => Some(config.name()),
            Self::Swa(config) => Some(config.name()),
            Self::Lookahead(_) | Self::Reptile(_) | Self::Normalization(_) => None,
        }
    }

    fn wrap(self, inner: Box<dyn Update>, batch_size: usize) -> Result<Box<dyn Update>> {
        self.check(batch_size)?;
        let name = self.average().unwrap_or_default();
        Ok(match self {
            Self::Ema(config) => Box::new(Averaged::new(name, inner, config.decay)),
            Self::PowerEma(config) => {
                Box::new(Averaged::new(name, inner, PowerDecay::of_width(config.width)?))
            }
            Self::Swa(config) => Box::new(Averaged::new(name, inner, config.decay())),
            Self::Lookahead(config) => Box::new(Lookahead::new(inner, config)),
            Self::Reptile(config) => Box::new(Reptile { inner, config }),
            Self::Normalization(config) => Box::new(WeightNormalization::new(inner, config)),
        })
    }
}

/// All of `techniques` around `step`, the first the innermost.
pub fn build_update(
    techniques: &[WeightsTechnique],
    step: Box<dyn Update>,
    batch_size: usize,
) -> Result<Box<dyn Update>> {
    let (mut update, mut names) = (step, BTreeSet::new());
    for (i, technique) in techniques.iter().enumerate() {
        let field = format!("weights[{i}]");
        if technique.average().is_some_and(|name| name == "live" || !names.insert(name)) {
            let reason = "two averages of one name, or one named `live`: give each a `name` of its own";
            return Err(Error::config(format!("{field}.name"), reason));
        }
        update = technique.clone().wrap(update, batch_size).map_err(|e| e.within(&field))?;
    }
    Ok(update)
}
