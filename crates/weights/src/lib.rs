#![doc = include_str!("../README.md")]

pub mod adm;
mod choose;
pub mod diffusers;
pub mod dit;
mod files;
pub mod hub;
mod layout;
mod load;
mod model;
mod pickle;
mod piece;
mod presets;
mod save;
mod shard;

pub use files::WeightFiles;
pub use hub::resolve;
pub use layout::Layout;
pub use load::load_into;
pub use model::{Example, Model, ModelConfig, OpenOptions};
pub use piece::{Piece, Rows, Shapes, as_named, renamed};
pub use presets::{preset, presets};
pub use save::{MAX_SHARD_BYTES, save_folder};

#[cfg(test)]
mod tests;
