#![doc = include_str!("../README.md")]

mod config;
mod decoder;
mod encoder;
mod unet;

pub use config::UNetConfig;
pub use decoder::Decoder;
pub use encoder::{Encoded, Encoder};
pub use unet::UNet;

#[cfg(test)]
mod tests;
