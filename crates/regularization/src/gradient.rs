//! What changes the gradient and leaves the weights.

mod accumulate;
mod clip;
mod maml;
mod noise;
mod pcgrad;
mod sam;

pub use accumulate::{Accumulate, AccumulateConfig};
pub use clip::{Clip, ClipConfig};
pub use maml::{Maml, MamlConfig, MamlOrder};
pub use noise::{GradientNoise, GradientNoiseConfig};
pub use pcgrad::{PcGrad, PcGradConfig};
pub use sam::{Sam, SamConfig};

use heldout_core::{Error, Gradient, Result};
use serde::{Deserialize, Serialize};

/// A technique on the gradient as a recipe writes it; each works on the gradient of those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum GradientTechnique {
    /// [`Accumulate`].
    Accumulate(AccumulateConfig),
    /// [`Clip`].
    Clip(ClipConfig),
    /// [`GradientNoise`].
    Noise(GradientNoiseConfig),
    /// [`Sam`].
    Sam(SamConfig),
    /// [`PcGrad`].
    PcGrad(PcGradConfig),
    /// [`Maml`].
    Maml(MamlConfig),
}

impl GradientTechnique {
    /// Which field cannot be honoured with batches of `batch_size`.
    pub fn check(&self, batch_size: usize) -> Result<()> {
        match self {
            Self::Accumulate(config) => config.check(batch_size),
            Self::Clip(config) => config.check(),
            Self::Noise(config) => config.check(),
            Self::Sam(config) => config.check(),
            Self::PcGrad(config) => config.check(),
            Self::Maml(config) => config.check(batch_size),
        }
    }

    /// Whether it evaluates the objective in a way of its own, so that nothing can lie within it.
    fn is_innermost(&self) -> bool {
        matches!(self, Self::PcGrad(_) | Self::Maml(_))
    }

    fn wrap(self, inner: Box<dyn Gradient>) -> Box<dyn Gradient> {
        match self {
            Self::Accumulate(config) => Box::new(Accumulate { inner, config }),
            Self::Clip(config) => Box::new(Clip { inner, config }),
            Self::Noise(config) => Box::new(GradientNoise { inner, config }),
            Self::Sam(config) => Box::new(Sam { inner, config }),
            Self::PcGrad(config) => Box::new(PcGrad { config }),
            Self::Maml(config) => Box::new(Maml { config }),
        }
    }
}

/// All of `techniques` around `plain`, the first the innermost.
pub fn build_gradient(
    techniques: &[GradientTechnique],
    plain: Box<dyn Gradient>,
    batch_size: usize,
) -> Result<Box<dyn Gradient>> {
    let mut gradient = plain;
    let mut rows = batch_size;
    for (i, technique) in techniques.iter().enumerate() {
        let field = format!("gradient[{i}]");
        technique.check(rows).map_err(|e| e.within(&field))?;
        if i > 0 && technique.is_innermost() {
            let reason = "pc_grad and maml evaluate the objective in a way of their own: put it first, once";
            return Err(Error::config(format!("{field}.kind"), reason));
        }
        if let GradientTechnique::Accumulate(config) = technique {
            rows /= config.micro_batches as usize;
        }
        gradient = technique.clone().wrap(gradient);
    }
    Ok(gradient)
}
