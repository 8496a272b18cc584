#![doc = include_str!("../README.md")]

mod attention;
mod layers;
mod resample;
mod resblock;
mod time_embedding;

pub use attention::{SelfAttention, attend};
pub use layers::{conv2d, group_norm, linear};
pub use resample::{Downsample, Upsample};
pub use resblock::{ResBlock, ResBlockShape};
pub use time_embedding::{TimeEmbedding, sinusoidal};

#[cfg(test)]
mod tests;
