//! Techniques that change inputs or latents before noise is added.

mod additive;
mod affine;
mod augmented;
mod blur;
mod color;
mod color_jitter;
mod crop;
mod cutout;
mod erasing;
mod flip;
mod label_dropout;
mod mixup;
mod non_leaky;
mod pick;
mod rotation;
mod technique;

pub use additive::AdditiveNoise;
pub use affine::{Interpolation, Padding, affine, rotate};
pub use augmented::Augmented;
pub use blur::{GaussianBlur, gaussian_blur};
pub use color::{adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation};
pub use color_jitter::ColorJitter;
pub use crop::{Crop, crop};
pub use cutout::Cutout;
pub use erasing::{Erasing, Fill, erase};
pub use flip::{Flip, flip};
pub use label_dropout::{LabelDropout, NullClass};
pub use mixup::Mixup;
pub use non_leaky::NonLeaky;
pub use rotation::Rotation;
pub use technique::AugmentTechnique;
