#![doc = include_str!("../README.md")]

mod conditioning;
mod config;
mod decoder;
pub mod diffusers;
mod encoder;
mod level;
pub mod plan;
mod unet;

pub use conditioning::Told;
pub use config::UNetConfig;
pub use decoder::Decoder;
pub use encoder::{Encoded, Encoder};
pub use level::UpLevel;
pub use unet::UNet;

#[cfg(test)]
mod tests;
