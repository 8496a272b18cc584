//! What is measured between generated, training and held-out images.

use crate::Result;
use serde::{Deserialize, Deserializer, Serialize};
use std::fmt::Debug;
use std::rc::Rc;
use tch::Tensor;

/// What a feature network says of a batch of images.
#[derive(Debug)]
pub struct FeatureOutput {
    /// One vector an image, `[B, D]`.
    pub features: Tensor,
    /// Class logits `[B, K]`, where it has a head.
    pub logits: Option<Tensor>,
    /// Features with their place, `[B, S]`, for sFID, where it has them.
    pub spatial: Option<Tensor>,
}

impl From<Tensor> for FeatureOutput {
    /// Features `[B, D]` alone.
    fn from(features: Tensor) -> Self {
        Self { features, logits: None, spatial: None }
    }
}

/// Images to features.
///
/// Law: an image's features do not depend on the others of its batch.
pub trait FeatureExtractor: Debug {
    /// As it stands in the names of metrics: `EfficientNet-Lite0`.
    fn name(&self) -> &str;
    /// Of images `[B, 3, H, W]` in `[0, 1]`; whoever has grey ones repeats their channel.
    ///
    /// # Errors
    /// The network cannot take images of this kind.
    fn extract(&self, images: &Tensor) -> Result<FeatureOutput>;
}

impl<F: FeatureExtractor + ?Sized> FeatureExtractor for Rc<F> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        (**self).extract(images)
    }
}

/// Features `[N, D]` (pixels are features too) of the three sets between which generalisation is measured.
#[derive(Debug)]
pub struct FeatureSets<'a> {
    /// The model's samples.
    pub generated: &'a Tensor,
    /// What it was trained on.
    pub train: &'a Tensor,
    /// Real data that it never saw.
    pub held_out: &'a Tensor,
}

/// A value with its 95 % interval; `null` in JSON, which has no other number for it, is one that is not finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Estimate {
    /// The point estimate.
    #[serde(deserialize_with = "nan_of_null")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub value: f64,
    /// Lower end of the 95 % interval.
    #[serde(deserialize_with = "nan_of_null")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub lower: f64,
    /// Upper end.
    #[serde(deserialize_with = "nan_of_null")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<f64>"))]
    pub upper: f64,
}

fn nan_of_null<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<f64, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Estimate {
    /// The share `count / of` with Wilson's interval, which says of none among `n` that the share may be up to about
    /// `3.8 / n`; Wilson 1927. NaN of nothing.
    pub fn share(count: usize, of: usize) -> Self {
        /// 97.5th percentile of the unit Gaussian.
        const Z: f64 = 1.959_963_984_540_054;
        let (n, z2) = (of as f64, Z * Z);
        let value = count as f64 / n;
        let middle = (value + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let reach = Z / (1.0 + z2 / n) * (value * (1.0 - value) / n + z2 / (4.0 * n * n)).sqrt();
        Self { value, lower: (middle - reach).max(0.0), upper: (middle + reach).min(1.0) }
    }
}

/// One metric of one model, beside what it would be for real data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Measurement {
    /// Generated against training.
    pub model: Estimate,
    /// Generated against held-out, for a metric of two sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against_held_out: Option<Estimate>,
    /// The floor: held-out real images against training, by the same rule.
    pub floor: Estimate,
}

/// Numbers that say how generated images relate to the training and to the held-out ones; several where they share their
/// work.
///
/// Law: the order of the images in a set does not matter; the same twice; the same names every time.
pub trait Metric: Debug {
    /// By their names in reports and records: both rows, the model's and the floor, or why they cannot be measured of these
    /// sets.
    ///
    /// # Errors
    /// The sets are none that anything could be measured of.
    fn evaluate(&self, sets: &FeatureSets<'_>) -> Result<Vec<(String, Result<Measurement>)>>;
}

impl<M: Metric + ?Sized> Metric for Rc<M> {
    fn evaluate(&self, sets: &FeatureSets<'_>) -> Result<Vec<(String, Result<Measurement>)>> {
        (**self).evaluate(sets)
    }
}

#[cfg(test)]
mod tests {
    use super::Estimate;

    /// JSON has neither infinity nor NaN: a metric without bound is written as null, and must not make its file unreadable.
    #[test]
    fn what_is_not_finite_can_be_read_again() {
        let written = Estimate { value: f64::INFINITY, lower: 1.0, upper: f64::NAN };
        let text = serde_json::to_string(&written).unwrap();
        let read: Estimate = serde_json::from_str(&text).unwrap();
        assert!(read.value.is_nan() && read.lower == 1.0 && read.upper.is_nan(), "{text}");
    }
}
