#![doc = include_str!("../README.md")]

mod discrete;
mod prediction;
mod times;
mod weighting;

pub use discrete::{Discrete, NoiseScheduleConfig};
pub use prediction::Prediction;
pub use times::UniformTimes;
pub use weighting::LossWeighting;

#[cfg(test)]
mod tests;
