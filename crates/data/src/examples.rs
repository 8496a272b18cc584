//! What batches are made of.

use crate::{ImageSet, to_unit_range};
use heldout_core::Result;
use std::fmt::Debug;
use tch::{Device, Tensor};

/// Examples of one shape by their numbers: images, or latents of images.
pub trait Examples: Debug {
    /// How many.
    fn len(&self) -> usize;
    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes of one as it is stored.
    fn bytes_each(&self) -> usize;
    /// These, `[n, C, H, W]`, on the CPU as they are stored.
    fn stored(&self, indices: &[usize]) -> Result<Tensor>;
    /// What a model is given of them.
    fn values(&self, stored: &Tensor) -> Tensor;
    /// The class of each, where they have one.
    fn labels(&self) -> Option<&[i64]>;

    /// These on a device, as a model is given them.
    fn on(&self, indices: &[usize], device: Device) -> Result<Tensor> {
        Ok(self.values(&self.stored(indices)?.to_device(device)))
    }
}

/// Bytes, in `[-1, 1]` for a model.
impl Examples for ImageSet {
    fn len(&self) -> usize {
        self.len()
    }

    fn bytes_each(&self) -> usize {
        self.pixels()
    }

    fn stored(&self, indices: &[usize]) -> Result<Tensor> {
        self.bytes(indices)
    }

    fn values(&self, stored: &Tensor) -> Tensor {
        to_unit_range(stored)
    }

    fn labels(&self) -> Option<&[i64]> {
        self.labels.as_deref()
    }
}
