//! Sources of noise as recipes write them.

use super::{
    InputPerturbation, InputPerturbationConfig, MultiResolutionNoise, MultiResolutionNoiseConfig,
    OffsetNoise, OffsetNoiseConfig, OptimalAssignment, OptimalAssignmentConfig, ScheduleJitter,
    ScheduleJitterConfig,
};
use heldout_core::{NoiseSchedule, NoiseSource, Result};
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// A technique around a source of noise, as a recipe writes it; in a list the first is the innermost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum NoiseTechnique {
    /// [`InputPerturbation`].
    InputPerturbation(InputPerturbationConfig),
    /// [`MultiResolutionNoise`].
    MultiResolution(MultiResolutionNoiseConfig),
    /// [`OffsetNoise`].
    Offset(OffsetNoiseConfig),
    /// [`OptimalAssignment`].
    OptimalAssignment(OptimalAssignmentConfig),
    /// [`ScheduleJitter`].
    ScheduleJitter(ScheduleJitterConfig),
}

impl NoiseTechnique {
    /// Whether its settings can be honoured, as far as they alone can say.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::InputPerturbation(config) => config.check(),
            Self::MultiResolution(config) => config.check(),
            Self::Offset(config) => config.check(),
            Self::OptimalAssignment(_) => Ok(()),
            Self::ScheduleJitter(config) => config.check(),
        }
    }

    /// Itself around `inner`, for a model that is trained on `schedule`.
    pub fn wrap(
        &self,
        inner: Box<dyn NoiseSource>,
        schedule: &Rc<dyn NoiseSchedule>,
    ) -> Result<Box<dyn NoiseSource>> {
        Ok(match self.clone() {
            Self::InputPerturbation(config) => Box::new(InputPerturbation::new(inner, config)?),
            Self::MultiResolution(config) => Box::new(MultiResolutionNoise::new(inner, config)?),
            Self::Offset(config) => Box::new(OffsetNoise::new(inner, config)?),
            Self::OptimalAssignment(config) => Box::new(OptimalAssignment::new(inner, config)),
            Self::ScheduleJitter(config) => {
                Box::new(ScheduleJitter::new(inner, config, Rc::clone(schedule))?)
            }
        })
    }
}
