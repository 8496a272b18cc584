#![doc = include_str!("../README.md")]

mod bootstrap;
mod distances;
mod error;
mod nearest;
mod transformed;

#[cfg(feature = "torch")]
mod energy;
#[cfg(feature = "torch")]
mod memorized;
#[cfg(feature = "torch")]
mod oracle;

pub use bootstrap::{Interval, bootstrap_mean};
pub use error::Error;
pub use nearest::{MEMORIZED_RATIO, NearestPairs, References};
pub use transformed::transformed_nearest;

#[cfg(feature = "torch")]
pub use energy::energy_distance;
#[cfg(feature = "torch")]
pub use memorized::{Copies, MemorizedFraction};
#[cfg(feature = "torch")]
pub use oracle::{EmpiricalDenoiser, MixtureDenoiser};

#[cfg(test)]
mod tests;
