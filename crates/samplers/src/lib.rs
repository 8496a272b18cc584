#![doc = include_str!("../README.md")]

mod clamped;
mod ddim;
mod ddpm;
mod grid;
mod noise;

pub use clamped::Clamped;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use grid::linear_times;
pub use noise::SeededNoise;

#[cfg(test)]
mod tests;
