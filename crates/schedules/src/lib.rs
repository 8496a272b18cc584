#![doc = include_str!("../README.md")]

mod config;
mod continuous;
mod discrete;
mod dynamic;
mod learned;
mod learned_uncertainty;
mod levels;
mod prediction;
mod shifted;
mod times;
mod variance;
mod weighting;

pub use config::{BuiltSchedule, NoiseScheduleConfig};
pub use continuous::{Edm, Flow, Trigonometric, Ve, VpCosine, VpLinear};
pub use discrete::Discrete;
pub use dynamic::{Dynamic, DynamicTimes};
pub use learned::{LearnedSchedule, ScheduleVariance};
pub use learned_uncertainty::LearnedUncertainty;
pub use prediction::Prediction;
pub use shifted::Shifted;
pub use times::{
    AdaptiveDensity, GridTimes, LogNormalSigma, LogitNormalTimes, LossSecondMoment, ModeTimes,
    StratifiedTimes, TimesConfig, UniformTimes,
};
pub use variance::{VarianceBound, bound_term};
pub use weighting::LossWeighting;

#[cfg(test)]
mod tests;
