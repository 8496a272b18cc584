//! A small classifier that is trained on a data set's own labels.

use crate::images::{Resize, check_images, resize};
use heldout_core::{Error, FeatureExtractor, FeatureOutput, Result, stream};
use heldout_nn::{Activation, Conv2d, GroupNorm, Linear};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use tch::nn::OptimizerConfig;
use tch::{Device, Kind, Tensor, nn};

/// Channels of the first layer, and most of a layer, which is the width of the features.
const CHANNELS: [i64; 2] = [32, 128];
const GROUPS: i64 = 8;
/// Maps are halved until no side is longer.
const SMALL: i64 = 4;
/// Sides of the means of the last map that the features are made of.
const POOLED: i64 = 2;
/// Images of one forward pass of the evaluation.
const EVALUATED: i64 = 256;

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
    /// `[N]`, `Int64`, from 0.
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
    /// `[H, W]`.
    size: [i64; 2],
    layers: Vec<(Conv2d, GroupNorm)>,
    join: Linear,
    head: Linear,
    accuracy: f64,
    vars: nn::VarStore,
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
        let size = [train.images.size()[2], train.images.size()[3]];
        if held_out.images.size()[2..] != size {
            let reason = format!("{:?} beside training images of {size:?}", &held_out.images.size()[2..]);
            return Err(Error::config("held-out images", reason));
        }
        tch::manual_seed(stream(config.seed, "classifier weights", 0, 0).cast_signed());
        let vars = nn::VarStore::new(device);
        let layers = layers(&vars.root(), size);
        let join = Linear::new(&(vars.root() / "join"), CHANNELS[1] * POOLED * POOLED, CHANNELS[1]);
        let head = Linear::new(&(vars.root() / "head"), CHANNELS[1], classes);
        let name = format!("classifier({data_set})");
        let mut classifier = Self { name, size, layers, join, head, accuracy: 0.0, vars };
        tch::with_grad(|| classifier.fit(config, train))?;
        classifier.vars.freeze();
        classifier.accuracy = classifier.accuracy_on(held_out)?;
        Ok(classifier)
    }

    /// Share of the held-out images whose largest logit is their class.
    pub fn held_out_accuracy(&self) -> f64 {
        self.accuracy
    }

    fn fit(&self, config: ClassifierConfig, train: Labelled<'_>) -> Result<()> {
        let mut optimizer = nn::Adam::default().build(&self.vars, config.learning_rate)?;
        for step in 0..config.steps {
            let share = step as f64 / config.steps as f64;
            optimizer.set_lr(config.learning_rate * 0.5 * (1.0 + (PI * share).cos()));
            tch::manual_seed(stream(config.seed, "classifier batch", step, 0).cast_signed());
            let rows =
                Tensor::randint(train.images.size()[0], [config.batch_size], (Kind::Int64, Device::Cpu));
            let rows = rows.to_device(train.images.device());
            let images = self.input(&train.images.index_select(0, &rows));
            let labels = train.labels.index_select(0, &rows).to_device(self.vars.device());
            let loss = self.logits(&self.features(&images)).cross_entropy_for_logits(&labels);
            if !loss.double_value(&[]).is_finite() {
                return Err(Error::Diverged { term: format!("the loss of {}", self.name), step });
            }
            optimizer.backward_step(&loss);
        }
        Ok(())
    }

    fn accuracy_on(&self, held_out: Labelled<'_>) -> Result<f64> {
        let count = held_out.images.size()[0];
        let mut right = 0;
        for start in (0..count).step_by(EVALUATED as usize) {
            let rows = EVALUATED.min(count - start);
            let images = self.input(&held_out.images.narrow(0, start, rows));
            let found = tch::no_grad(|| self.logits(&self.features(&images))).argmax(1, false);
            let labels = held_out.labels.narrow(0, start, rows).to_device(self.vars.device());
            right += i64::try_from(found.eq_tensor(&labels).sum(Kind::Int64))?;
        }
        Ok(right as f64 / count as f64)
    }

    /// Bytes or numbers in `[0, 1]`, grey or not, as f32 in `[-1, 1]`, `[B, 3, H, W]`.
    fn input(&self, images: &Tensor) -> Tensor {
        let unit = if images.kind() == Kind::Uint8 { 255.0 } else { 1.0 };
        let x = images.to_device(self.vars.device()).to_kind(Kind::Float) * (2.0 / unit) - 1.0;
        if x.size()[1] == 1 { x.expand([-1, 3, -1, -1], false) } else { x }
    }

    /// `[B, 3, H, W] -> [B, 128]`.
    fn features(&self, x: &Tensor) -> Tensor {
        let layer = |x: Tensor, (conv, norm): &(Conv2d, GroupNorm)| {
            norm.activated(&conv.forward(&x), None, Activation::Silu)
        };
        let x = self.layers.iter().fold(x.shallow_clone(), layer);
        self.join.forward(&x.adaptive_avg_pool2d([POOLED; 2]).flatten(1, -1)).silu()
    }

    fn logits(&self, features: &Tensor) -> Tensor {
        self.head.forward(features)
    }
}

/// One layer at full size, then one for each halving, the last of them followed by one more.
fn layers(vs: &nn::Path<'_>, size: [i64; 2]) -> Vec<(Conv2d, GroupNorm)> {
    let (mut side, mut from, mut to) = (size[0].max(size[1]), 3, CHANNELS[0]);
    let mut shapes = vec![(from, to, 1)];
    while side > SMALL {
        (from, to, side) = (to, (2 * to).min(CHANNELS[1]), (side + 1) / 2);
        shapes.push((from, to, 2));
    }
    shapes.push((to, CHANNELS[1], 1));
    let layer = |(i, (from, to, stride)): (usize, (i64, i64, i64))| {
        let vs = vs / i;
        (Conv2d::new(&(&vs / "conv"), from, to, 3, stride), GroupNorm::new(&(&vs / "norm"), GROUPS, to, 1e-5))
    };
    shapes.into_iter().enumerate().map(layer).collect()
}

impl Labelled<'_> {
    /// Whether they go together, with labels below `classes` where that is known: how many classes there are.
    fn check(&self, set: &str, classes: Option<i64>) -> Result<i64> {
        let fail = |what: &str, reason: String| Err(Error::config(format!("{set} {what}"), reason));
        let (images, labels) = (self.images.size(), self.labels.size());
        if !matches!(images[..], [n, 1 | 3, h, w] if n > 0 && h > 0 && w > 0) {
            return fail(
                "images",
                format!("{images:?}: [N, 1 or 3, H, W] with at least one image is needed"),
            );
        }
        if !matches!(self.images.kind(), Kind::Uint8 | Kind::Float) {
            return fail("images", format!("{:?}: bytes, or f32 in [0, 1], are needed", self.images.kind()));
        }
        if labels != images[..1] || self.labels.kind() != Kind::Int64 {
            let reason =
                format!("{labels:?} of {:?}: [{}] of Int64 is needed", self.labels.kind(), images[0]);
            return fail("labels", reason);
        }
        let (least, most) = (self.labels.min().int64_value(&[]), self.labels.max().int64_value(&[]));
        match classes {
            _ if least < 0 => fail("labels", format!("{least}: classes are counted from 0")),
            None if most < 1 => fail("labels", "one class alone: a classifier needs two".to_owned()),
            Some(classes) if most >= classes => fail(
                "labels",
                format!("{most}: no training image has it; the largest there is {}", classes - 1),
            ),
            _ => Ok(most + 1),
        }
    }
}

impl FeatureExtractor for Classifier {
    fn name(&self) -> &str {
        &self.name
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        check_images(images)?;
        let images = resize(images, self.size, Resize::Bicubic)?;
        let features = self.features(&self.input(&images));
        let logits = Some(self.logits(&features));
        Ok(FeatureOutput { features, logits, spatial: None })
    }
}
