//! What happens to images before a network sees them.

use heldout_core::{Error, FeatureExtractor, FeatureOutput, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How images of another size get the size that a network wants. Sides are stretched, nothing is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Keys' cubic with `a = -1/2`, as wide as the shrinking asks for, cut to `[0, 1]`: Pillow's `BICUBIC`, without its
    /// rounding to bytes.
    #[default]
    Bicubic,
    /// A triangle as wide as the shrinking asks for: Pillow's `BILINEAR`, without its rounding to bytes.
    Bilinear,
    /// Between the four nearest pixels however much is shrunk: torch's `interpolate`, as pytorch-fid has it.
    BilinearNoAntialias,
}

/// From images in `[0, 1]` to the input of a network: resized, put into a range, `(x - mean) / std` for each channel.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ImageInput {
    /// Side of the images that the network wants; any if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<i64>,
    /// How others are made as large.
    #[serde(default)]
    pub resize: Resize,
    /// What black and white become before the mean is subtracted: `[0, 1]` or `[0, 255]`.
    #[serde(default = "unit")]
    pub range: [f64; 2],
    /// Of each channel.
    #[serde(default = "zeros")]
    pub mean: [f64; 3],
    /// Of each channel.
    #[serde(default = "ones")]
    pub std: [f64; 3],
}

fn unit() -> [f64; 2] {
    [0.0, 1.0]
}

fn zeros() -> [f64; 3] {
    [0.0; 3]
}

fn ones() -> [f64; 3] {
    [1.0; 3]
}

impl Default for ImageInput {
    /// Images as they are.
    fn default() -> Self {
        Self { size: None, resize: Resize::default(), range: unit(), mean: zeros(), std: ones() }
    }
}

impl ImageInput {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let Self { size, range: [low, high], mean, std, .. } = self;
        if size.is_some_and(|s| s < 1) {
            let reason = format!("{}: a side of at least 1 pixel is needed", size.unwrap_or_default());
            return Err(Error::config("size", reason));
        }
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(Error::config("range", format!("[{low}, {high}]: two numbers that rise are needed")));
        }
        if mean.iter().any(|m| !m.is_finite()) {
            return Err(Error::config("mean", format!("{mean:?}: three finite numbers are needed")));
        }
        if std.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
            return Err(Error::config("std", format!("{std:?}: three numbers above 0 are needed")));
        }
        Ok(())
    }

    /// `[B, 3, H, W]` in `[0, 1]` to what the network is given, f32 or f64 as it came.
    ///
    /// # Errors
    /// The images are of another shape or kind.
    pub fn prepare(&self, images: &Tensor) -> Result<Tensor> {
        check_images(images)?;
        let Self { size, resize: rule, range: [low, high], mean, std } = self;
        let resized = match size {
            Some(side) => resize(images, [*side; 2], *rule)?,
            None => images.shallow_clone(),
        };
        // In f64 and for the whole of it at once: (x (high - low) + low - mean) / std.
        let of = |f: &dyn Fn(usize) -> f64| {
            let numbers: Vec<f64> = (0..3).map(f).collect();
            Tensor::from_slice(&numbers).to_kind(images.kind()).to_device(images.device()).view([1, 3, 1, 1])
        };
        let scale = of(&|c| (high - low) / std[c]);
        Ok(resized * scale + of(&|c| (low - mean[c]) / std[c]))
    }
}

/// Whether these are images: `[B, 3, H, W]` of f32 or f64 with at least a pixel.
pub(crate) fn check_images(images: &Tensor) -> Result<()> {
    let fail = |reason: String| Err(Error::config("images", reason));
    let (size, kind) = (images.size(), images.kind());
    if !matches!(size[..], [_, 3, h, w] if h > 0 && w > 0) {
        let remedy = "feature networks take [B, 3, H, W]; repeat the channel of grey images";
        return fail(format!("{size:?}: {remedy}"));
    }
    if !matches!(kind, Kind::Float | Kind::Double) {
        return fail(format!("{kind:?}: feature networks take f32 in [0, 1]"));
    }
    Ok(())
}

/// Images `[B, C, H, W]` in `[0, 1]` of another size `[H, W]`, by a stated rule; those of that size stay as they are.
///
/// # Errors
/// libtorch's.
pub fn resize(images: &Tensor, to: [i64; 2], rule: Resize) -> Result<Tensor> {
    if images.size()[2..] == to {
        return Ok(images.shallow_clone());
    }
    Ok(match rule {
        Resize::Bicubic => {
            images.f_internal_upsample_bicubic2d_aa(to, false, None, None)?.f_clamp(0.0, 1.0)?
        }
        Resize::Bilinear => images.f_internal_upsample_bilinear2d_aa(to, false, None, None)?,
        Resize::BilinearNoAntialias => images.f_upsample_bilinear2d(to, false, None, None)?,
    })
}

/// Images `[B, 1 or 3, H, W]` as `[B, 3, H, W]`: the channel of grey ones is repeated, without a copy.
///
/// # Errors
/// libtorch's.
pub fn rgb(images: &Tensor) -> Result<Tensor> {
    Ok(match images.size()[..] {
        [_, 1, _, _] => images.f_expand([-1, 3, -1, -1], false)?,
        _ => images.shallow_clone(),
    })
}

/// Features of images that come in batches, one batch at a time: memory does not grow with their number. Each batch is
/// `[B, 1 or 3, H, W]` in `[0, 1]`; the channel of grey images is repeated, and no graph is kept.
pub fn in_batches<'a>(
    extractor: &'a dyn FeatureExtractor,
    batches: impl IntoIterator<Item = Result<Tensor>> + 'a,
) -> impl Iterator<Item = Result<FeatureOutput>> + 'a {
    batches.into_iter().map(|images| {
        let images = rgb(&images?)?;
        tch::no_grad(|| extractor.extract(&images))
    })
}
