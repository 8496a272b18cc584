#![doc = include_str!("../README.md")]

mod batches;
mod files;
mod folder;
mod idx;
mod image_set;
mod manifest;
mod pixels;
mod split;
mod summary;

pub use batches::Batches;
pub use files::{cache_folder, find, shipped};
pub use image_set::ImageSet;
pub use manifest::Manifest;
pub use pixels::{to_bytes, to_unit_range};
pub use split::{Split, SplitConfig};
pub use summary::Summary;

#[cfg(test)]
mod tests;
