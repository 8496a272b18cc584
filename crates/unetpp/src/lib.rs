#![doc = include_str!("../README.md")]

mod config;
mod costs;
mod grid;
mod network;

pub use config::UNetPlusPlusConfig;
pub use costs::{Costs, DepthCost};
pub use network::{AtDepth, UNetPlusPlus};

#[cfg(test)]
mod tests;
