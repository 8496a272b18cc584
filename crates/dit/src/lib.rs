#![doc = include_str!("../README.md")]

mod block;
mod config;
mod diffusers;
mod dit;
mod embedding;
mod space_time;

pub use config::{DitConfig, EmbedderPlace, NormKind, Positions};
pub use diffusers::DiTTransformer2DModelConfig;
pub use dit::{Dit, Trunk};
pub use space_time::{ClipAttention, SpaceTimeConfig, SpaceTimeDit};

#[cfg(test)]
mod tests;
