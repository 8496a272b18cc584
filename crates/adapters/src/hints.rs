//! Hints that are computed from images: edges, colours, structure, texture, motion.
//!
//! In batches, where the images are, from their values alone: the same images give the same hints.

mod canny;
mod edge_f1;
mod filters;

pub use canny::canny;
pub use edge_f1::edge_f1;

use filters::{gaussian, gradients, grey};
use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_1_SQRT_2;
use tch::{Kind, Tensor};

/// What can be computed from images as a hint.
///
/// Law: `[B, C, H, W]` in `[-1, 1]`, `C` of 1 or 3, gives `[B, c, H, W]` in `[0, 1]`; each image for itself. Clips `[B, C, T, H,
/// W]` give `[B, c, T, H, W]`.
pub trait Hint {
    /// Name, as in recipes.
    fn name(&self) -> &'static str;

    /// `c`, for images of this many channels.
    fn channels(&self, of_images: i64) -> i64;

    /// The hints of a batch.
    ///
    /// # Errors
    /// Images of another shape than this hint can be computed from: the message says which is needed.
    fn compute(&self, images: &Tensor) -> Result<Tensor>;
}

/// The hints that a recipe can name.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum HintTechnique {
    /// Edges of one pixel's width, 0 or 1: [`canny`].
    Canny {
        /// Deviation of the Gaussian before, in pixels.
        #[serde(default = "one")]
        sigma: f64,
        /// Gradient magnitude above which a pixel is an edge if it is linked to one above `high`; of a grey image in `[0, 1]`
        /// and Sobel's kernels, whose weights on a side sum to 4.
        #[serde(default = "low")]
        low: f64,
        /// Gradient magnitude above which it is an edge.
        #[serde(default = "high")]
        high: f64,
    },
    /// Magnitude of Sobel's gradient, divided by the largest that there is.
    Sobel,
    /// Mean colour of each square of `cell` pixels, all over the square: the palette of T2I-Adapter, Mou et al. 2023, section 3.3.
    Palette {
        /// Side of a square; divides those of the image.
        cell: i64,
    },
    /// Colours behind a Gaussian.
    BlurredColor {
        /// Its deviation, in pixels.
        sigma: f64,
    },
    /// Brightness behind a Gaussian: coarse structure.
    LowPass {
        /// Its deviation, in pixels.
        sigma: f64,
    },
    /// Local energy of the gradient in directions 0, 45, 90 and 135 degrees, a channel each: root of the Gaussian mean of the
    /// square of the steered first derivative; Freeman and Adelson 1991, Eq. 3.
    Texture {
        /// Deviation of the Gaussian, in pixels.
        sigma: f64,
    },
    /// Change of brightness since the frame before, of clips: 0.5 is none, also for the first frame.
    Motion,
}

fn one() -> f64 {
    1.0
}

fn low() -> f64 {
    0.1
}

fn high() -> f64 {
    0.2
}

/// The largest magnitude of Sobel's gradient in an image in `[0, 1]`: that of an edge whose tangent is 1/2.
fn steepest() -> f64 {
    20f64.sqrt()
}

impl HintTechnique {
    /// Whether it is possible.
    ///
    /// # Errors
    /// The field, the value and the remedy.
    pub fn check(&self) -> Result<()> {
        let positive = |field: &str, x: f64, most: f64| match x > 0.0 && x <= most {
            true => Ok(()),
            false => Err(Error::config(field, format!("{x}: above 0 and at most {most} is needed"))),
        };
        match *self {
            Self::Canny { sigma, low, high } => {
                positive("sigma", sigma, MAX_SIGMA)?;
                positive("low", low, steepest())?;
                positive("high", high, steepest())?;
                match low <= high {
                    true => Ok(()),
                    false => Err(Error::config("low", format!("{low}: at most high, {high}, is needed"))),
                }
            }
            Self::BlurredColor { sigma } | Self::LowPass { sigma } | Self::Texture { sigma } => {
                positive("sigma", sigma, MAX_SIGMA)
            }
            Self::Palette { cell } if cell < 1 => {
                Err(Error::config("cell", format!("{cell}: at least 1 pixel is needed")))
            }
            Self::Palette { .. } | Self::Sobel | Self::Motion => Ok(()),
        }
    }

    /// Of images in `[0, 1]`, `[B, C, H, W]`; `motion` is none of images.
    fn of_images(&self, x: &Tensor) -> Tensor {
        match *self {
            Self::Canny { sigma, low, high } => canny(&grey(x), sigma, low, high),
            Self::Sobel => {
                let [dy, dx] = gradients(&grey(x));
                (dy.square() + dx.square()).sqrt() / steepest()
            }
            Self::Palette { cell } => {
                let means = x.avg_pool2d([cell; 2], [cell; 2], [0; 2], false, true, None::<i64>);
                means.repeat_interleave_self_int(cell, 2, None).repeat_interleave_self_int(cell, 3, None)
            }
            Self::BlurredColor { sigma } => gaussian(x, sigma),
            Self::LowPass { sigma } => gaussian(&grey(x), sigma),
            Self::Texture { sigma } => {
                let [dy, dx] = gradients(&grey(x));
                let r = FRAC_1_SQRT_2;
                let steered = [(1.0, 0.0), (r, r), (0.0, 1.0), (-r, r)].map(|(c, s)| &dx * c + &dy * s);
                (gaussian(&Tensor::cat(&steered, 1).square(), sigma).sqrt() / steepest()).clamp(0.0, 1.0)
            }
            Self::Motion => grey(x),
        }
    }
}

/// The widest Gaussian, in pixels: its window grows with it.
const MAX_SIGMA: f64 = 256.0;

impl Hint for HintTechnique {
    fn name(&self) -> &'static str {
        match self {
            Self::Canny { .. } => "canny",
            Self::Sobel => "sobel",
            Self::Palette { .. } => "palette",
            Self::BlurredColor { .. } => "blurred_color",
            Self::LowPass { .. } => "low_pass",
            Self::Texture { .. } => "texture",
            Self::Motion => "motion",
        }
    }

    fn channels(&self, of_images: i64) -> i64 {
        match self {
            Self::Palette { .. } | Self::BlurredColor { .. } => of_images,
            Self::Texture { .. } => 4,
            Self::Canny { .. } | Self::Sobel | Self::LowPass { .. } | Self::Motion => 1,
        }
    }

    fn compute(&self, images: &Tensor) -> Result<Tensor> {
        self.check()?;
        let size = images.size();
        let fails = |what: String| Err(Error::config("images", format!("{}: {what}", self.name())));
        if !images.is_floating_point() {
            return fails(format!("are {:?}: floating-point numbers in [-1, 1] are needed", images.kind()));
        }
        let clips = match size.len() {
            4 if *self == Self::Motion => {
                return fails(format!("{size:?} are no clips: motion needs [B, C, T, H, W]"));
            }
            4 => false,
            5 => true,
            _ => return fails(format!("{size:?}: [B, C, H, W] or clips [B, C, T, H, W] are needed")),
        };
        if !matches!(size[1], 1 | 3) {
            return fails(format!("{size:?}: 1 or 3 channels are needed, not {}", size[1]));
        }
        let [height, width] = [size[size.len() - 2], size[size.len() - 1]];
        if let Self::Palette { cell } = *self
            && (height % cell != 0 || width % cell != 0)
        {
            return fails(format!("{height}x{width}: sides must be multiples of the cell, {cell}"));
        }
        if images.numel() == 0 {
            return fails(format!("{size:?}: at least one image with a pixel is needed"));
        }
        let x = ((images.to_kind(Kind::Float) + 1.0) * 0.5).clamp(0.0, 1.0);
        if !clips {
            return Ok(self.of_images(&x));
        }
        let frames = x.transpose(1, 2).flatten(0, 1); // [B T, C, H, W]
        let hints = self.of_images(&frames).unflatten(0, [size[0], size[2]]).transpose(1, 2);
        Ok(if *self == Self::Motion { motion(&hints) } else { hints.contiguous() })
    }
}

/// `[B, 1, T, H, W]` in `[0, 1]`: half of what was added since the frame before, around 0.5.
fn motion(grey: &Tensor) -> Tensor {
    let first = grey.narrow(2, 0, 1);
    let frames = Tensor::cat(&[&first, grey], 2);
    (frames.diff::<Tensor>(1, 2, None, None) + 1.0) * 0.5
}
