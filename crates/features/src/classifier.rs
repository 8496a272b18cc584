//! A small classifier that is trained on a data set's own labels.

use crate::images::{Resize, check_images, resize};
use crate::small::Small;
use heldout_core::{Error, FeatureExtractor, FeatureOutput, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// How a [`Classifier`] is trained.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierConfig {
    /// Steps of Adam.
    pub steps: u64,
    /// Images of a step, drawn with replacement.
    pub batch_size: i64,
    /// The first learning rate; it falls to 0 by half a cosine.
    pub learning_rate: f64,
    /// Of the weights and the draws.
    pub seed: u64,
}

impl Default for ClassifierConfig {
    fn default() -> Self {
        Self { steps: 400, batch_size: 64, learning_rate: 2e-3, seed: 0 }
    }
}

impl ClassifierConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let Self { steps, batch_size, learning_rate, .. } = *self;
        if steps < 1 || batch_size < 1 {
            let (field, n) = if steps < 1 { ("steps", 0) } else { ("batch_size", batch_size) };
            return Err(Error::config(field, format!("{n}: at least 1 is needed")));
        }
        if !(learning_rate.is_finite() && learning_rate > 0.0) {
            return Err(Error::config(
                "learning_rate",
                format!("{learning_rate}: a number above 0 is needed"),
            ));
        }
        Ok(())
    }
}

/// Images with their classes.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// `[N, 1 or 3, H, W]`: bytes, or f32 in `[0, 1]`.
    pub images: &'a Tensor,
    /// `[N]`, `Int64`, from 0; for an [`AttributeDecoder`](crate::AttributeDecoder) `[N, K]`, f32, 1 where class `k` holds
    /// and 0 where it does not.
    pub labels: &'a Tensor,
}

/// A convolutional classifier trained in place: features `[B, 128]` are what its last layer sees; logits `[B, K]`.
///
/// Convolutions of 3x3, group norm and SiLU, halved until no side has more than 4 pixels; then means over quarters of the
/// map and a hidden layer. A function of the data and the
/// seed. Its input has the size of the data; other images are resized to that by [`Resize::Bicubic`].
///
/// Law: the same data and seed give the same weights.
#[derive(Debug)]
pub struct Classifier {
    name: String,
    network: Small,
    accuracy: f64,
}

impl Classifier {
    /// Trains on `train` and takes the accuracy on `held_out`; `data_set` names it.
    ///
    /// # Errors
    /// A field of the configuration, or images and labels that do not go together.
    pub fn train(
        config: ClassifierConfig,
        data_set: &str,
        train: Labelled<'_>,
        held_out: Labelled<'_>,
        device: Device,
    ) -> Result<Self> {
        config.check()?;
        let classes = train.check("train", None)?;
        held_out.check("held-out", Some(classes))?;
        let size = train.size_with(held_out)?;
        let name = format!("classifier({data_set})");
        let loss = |logits: &Tensor, labels: &Tensor| logits.cross_entropy_for_logits(labels);
        let network = Small::train(config, &name, (size, classes), train, &loss, device)?;
        let found = network.logits_of(held_out.images).argmax(1, false);
        let right = found.eq_tensor(&held_out.labels.to_device(device)).sum(Kind::Int64);
        let accuracy = i64::try_from(right)? as f64 / held_out.images.size()[0] as f64;
        Ok(Self { name, network, accuracy })
    }

    /// Share of the held-out images whose largest logit is their class.
    pub fn held_out_accuracy(&self) -> f64 {
        self.accuracy
    }
}

impl Labelled<'_> {
    /// Whether they go together, with labels below `classes` where that is known: how many classes there are.
    fn check(&self, set: &str, classes: Option<i64>) -> Result<i64> {
        check_of_set(self.images, set)?;
        let fail = |reason: String| Err(Error::config(format!("{set} labels"), reason));
        let (images, labels) = (self.images.size(), self.labels.size());
        if labels != images[..1] || self.labels.kind() != Kind::Int64 {
            return fail(format!(
                "{labels:?} of {:?}: [{}] of Int64 is needed",
                self.labels.kind(),
                images[0]
            ));
        }
        let (least, most) = (self.labels.min().int64_value(&[]), self.labels.max().int64_value(&[]));
        match classes {
            _ if least < 0 => fail(format!("{least}: classes are counted from 0")),
            None if most < 1 => fail("one class alone: a classifier needs two".to_owned()),
            Some(classes) if most >= classes => {
                fail(format!("{most}: no training image has it; the largest there is {}", classes - 1))
            }
            _ => Ok(most + 1),
        }
    }

    /// `[H, W]` of the images, which is that of the held-out ones.
    pub(crate) fn size_with(&self, held_out: Self) -> Result<[i64; 2]> {
        let size = [self.images.size()[2], self.images.size()[3]];
        if held_out.images.size()[2..] == size {
            return Ok(size);
        }
        let reason = format!("{:?} beside training images of {size:?}", &held_out.images.size()[2..]);
        Err(Error::config("held-out images", reason))
    }
}

impl FeatureExtractor for Classifier {
    fn name(&self) -> &str {
        &self.name
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        check_images(images)?;
        let images = resize(images, self.network.size, Resize::Bicubic)?;
        let features = self.network.features(&self.network.input(&images));
        let logits = Some(self.network.logits(&features));
        Ok(FeatureOutput { features, logits, spatial: None })
    }
}

/// Whether the images of a set can be looked at.
pub(crate) fn check_of_set(images: &Tensor, set: &str) -> Result<()> {
    let fail = |reason: String| Err(Error::config(format!("{set} images"), reason));
    let size = images.size();
    if !matches!(size[..], [n, 1 | 3, h, w] if n > 0 && h > 0 && w > 0) {
        return fail(format!("{size:?}: [N, 1 or 3, H, W] with at least one image is needed"));
    }
    if !matches!(images.kind(), Kind::Uint8 | Kind::Float) {
        return fail(format!("{:?}: bytes, or f32 in [0, 1], are needed", images.kind()));
    }
    Ok(())
}
