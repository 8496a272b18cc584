//! Hints of a run: computed from its images.

use super::config::AdapterConfig;
use anyhow::{Result, anyhow};
use heldout_adapters::hints::{Hint, HintTechnique};
use heldout_core::{Batch, BatchSource, Clock, Cond, Error};
use heldout_data::to_unit_range;
use std::path::Path;
use tch::{Device, Tensor};

/// What is computed from images, side by side; nothing for an adapter without hints.
#[derive(Debug, Clone)]
pub(crate) struct Hints {
    pub(crate) all: Vec<(String, HintTechnique)>,
}

impl Hints {
    /// Of a recipe's adapter, if it looks at any.
    pub(crate) fn of(adapter: Option<&AdapterConfig>) -> Option<Self> {
        let all = adapter.map(AdapterConfig::hints).unwrap_or_default();
        (!all.is_empty()).then_some(Self { all })
    }

    /// Of images `[B, C, H, W]` in `[-1, 1]`, `[B, c, H, W]`.
    pub(crate) fn compute(&self, images: &Tensor) -> heldout_core::Result<Tensor> {
        let each = self.all.iter().map(|(_, hint)| tch::no_grad(|| hint.compute(images)));
        Ok(Tensor::cat(&each.collect::<heldout_core::Result<Vec<_>>>()?, 1))
    }

    /// The channels of each, for images of this many.
    pub(crate) fn channels(&self, of_images: i64) -> Vec<std::ops::Range<i64>> {
        let mut first = 0;
        let mut next = |n: i64| {
            first += n;
            first - n..first
        };
        self.all.iter().map(|(_, hint)| next(hint.channels(of_images))).collect()
    }
}

/// Batches with the hints of their images.
///
/// Law: the batches of the source, but for `cond.hint`.
#[derive(Debug)]
pub(crate) struct Hinted {
    pub(crate) inner: Box<dyn BatchSource>,
    pub(crate) hints: Hints,
    /// All training images `[N, C, H, W]`, where batches are of latents; the images of the batch if absent.
    pub(crate) images: Option<Tensor>,
}

impl BatchSource for Hinted {
    fn batch(&mut self, clock: Clock) -> heldout_core::Result<Batch> {
        let batch = self.inner.batch(clock)?;
        let hint = match (&self.images, &batch.index) {
            (Some(images), Some(index)) => self.hints.compute(&images.index_select(0, index))?,
            (Some(_), None) => {
                return Err(Error::config("adapter", "the batches do not say which images they are of"));
            }
            (None, _) => self.hints.compute(&batch.x_start)?,
        };
        Ok(Batch { cond: Cond { hint: Some(hint), ..batch.cond }, ..batch })
    }
}

/// The hint of an image file, `[1, c, H, W]`, for a model of images `[C, H, W]`.
pub(crate) fn control_hint(
    hints: &Hints,
    path: &Path,
    [channels, height, width]: [i64; 3],
    device: Device,
) -> Result<Tensor> {
    let fails = |reason: String| anyhow!(Error::file(path, reason));
    let image = image::open(path).map_err(|e| fails(format!("is no image: {e}")))?;
    let (w, h) = (i64::from(image.width()), i64::from(image.height()));
    if (w, h) != (width, height) {
        return Err(fails(format!("is {w}x{h}, where the model's images are {width}x{height}: resize it")));
    }
    let bytes = match channels {
        1 => image.to_luma8().into_raw(),
        _ => image.to_rgb8().into_raw(),
    };
    let pixels = Tensor::from_slice(&bytes).view([height, width, channels]).permute([2, 0, 1]).unsqueeze(0);
    Ok(hints.compute(&to_unit_range(&pixels.contiguous().to_device(device)))?)
}
