#![doc = include_str!("../README.md")]

pub mod adm;
mod autoencoder;
mod choose;
mod component;
mod control_net;
pub mod diffusers;
pub mod dit;
mod fields;
mod files;
pub mod hub;
mod layout;
mod load;
mod model;
mod pickle;
mod piece;
mod pipeline;
mod presets;
mod save;
mod shard;

pub use autoencoder::{AutoencoderConfig, AutoencoderModel};
pub use component::{Component, ComponentConfig};
pub use control_net::ControlNetModel;
pub use files::WeightFiles;
pub use hub::{Parts, resolve, resolve_whole};
pub use layout::Layout;
pub use load::load_into;
pub use model::{Example, Model, ModelConfig, OpenOptions};
pub use piece::{Piece, Rows, Shapes, as_named, renamed};
pub use pipeline::{Part, PipelineIndex, is_pipeline};
pub use presets::{preset, presets};
pub use save::{MAX_SHARD_BYTES, save_folder};

#[cfg(test)]
mod tests;
