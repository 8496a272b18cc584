#![doc = include_str!("../README.md")]

mod gradient;
mod noise;
mod weights;

pub use gradient::Clip;
pub use noise::Gaussian;
pub use weights::{Averaged, EmaDecay};

#[cfg(test)]
mod tests;
