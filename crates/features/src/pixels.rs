//! The images themselves.

use crate::images::check_images;
use heldout_core::{FeatureExtractor, FeatureOutput, Result};
use tch::Tensor;

/// The name of [`Pixels`].
pub const PIXELS: &str = "pixels";

/// The pixels in `[0, 1]`, channel by channel, row by row: `[B, 3 H W]`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pixels;

impl FeatureExtractor for Pixels {
    fn name(&self) -> &str {
        PIXELS
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        check_images(images)?;
        Ok(images.flatten(1, -1).into())
    }
}
