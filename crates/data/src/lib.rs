#![doc = include_str!("../README.md")]

mod array;
mod array_images;
mod attributes;
mod batches;
mod captions;
mod decode;
mod drawn_labels;
mod examples;
mod files;
mod folder;
mod idx;
mod image_set;
mod labels;
mod latents;
mod manifest;
mod matrix;
mod pixels;
mod reading;
mod repeat;
mod split;
mod stream;
mod summary;
mod walk;

pub use array_images::PixelRange;
pub use attributes::{AttributeClasses, AttributeFilter, AttributeTable};
pub use batches::{Batches, permutation};
pub use captions::Captions;
pub use drawn_labels::DrawnLabels;
pub use examples::Examples;
pub use files::{cache_folder, find, shipped};
pub use image_set::ImageSet;
pub use labels::LabelConfig;
pub use latents::{LatentCache, LatentSource};
pub use manifest::Manifest;
pub use matrix::{Matrix, read_matrix};
pub use pixels::{to_bytes, to_unit_range};
pub use reading::{Reading, Unreadable};
pub use repeat::{RepeatConfig, check_repeat, multiplicity};
pub use split::{Split, SplitConfig};
pub use stream::{ImageBatch, ImageStream, StreamOptions};
pub use summary::Summary;

#[cfg(test)]
mod tests;
