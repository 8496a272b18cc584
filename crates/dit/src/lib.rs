#![doc = include_str!("../README.md")]

mod block;
mod config;
mod diffusers;
mod dit;
mod embedding;
mod space_time;
mod stacked;

pub use config::{DitConfig, EmbedderPlace, NormKind, Positions};
pub use diffusers::DiTTransformer2DModelConfig;
pub use dit::{Dit, Trunk};
pub use space_time::{ClipAttention, SpaceTimeConfig, SpaceTimeDit};
pub use stacked::StackedFrames;

#[cfg(test)]
mod tests;
