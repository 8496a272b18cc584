#![doc = include_str!("../README.md")]

mod attribute_decoder;
mod classifier;
mod clip;
mod config;
mod dinov2;
mod efficientnet_lite0;
mod encoder;
mod images;
mod lpips;
mod pixels;
mod small;
mod torchscript;

pub use attribute_decoder::{AttributeDecoder, DecodedClass};
pub use classifier::{Classifier, ClassifierConfig, Labelled};
pub use clip::{ClipText, ClipTokenizer, ClipVision, TextOutput, Tokens, Truncation};
pub use config::{DataSet, FeaturesConfig, Resources};
pub use dinov2::DinoV2;
pub use efficientnet_lite0::EfficientNetLite0;
pub use images::{ImageInput, Resize, in_batches, resize, rgb};
pub use lpips::Lpips;
pub use pixels::{PIXELS, Pixels};
pub use torchscript::{INCEPTION, TorchScript, TorchScriptConfig};

#[cfg(test)]
mod tests;
