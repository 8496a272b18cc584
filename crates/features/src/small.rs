//! The small network of classifiers that are trained in place.

use crate::{ClassifierConfig, Labelled};
use heldout_core::{Error, Result, stream};
use heldout_nn::{Activation, Conv2d, GroupNorm, Linear};
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

/// The loss of logits `[B, K]` beside the labels of their images.
pub(crate) type Loss<'a> = &'a dyn Fn(&Tensor, &Tensor) -> Tensor;

/// Convolutions of 3x3, group norm and SiLU, halved until no side has more than 4 pixels; then means over quarters of the
/// map and a hidden layer, whose `[B, 128]` are the features, and logits.
#[derive(Debug)]
pub(crate) struct Small {
    /// `[H, W]` of its images.
    pub(crate) size: [i64; 2],
    layers: Vec<(Conv2d, GroupNorm)>,
    join: Linear,
    head: Linear,
    vars: nn::VarStore,
}

impl Small {
    /// Trains one with `outputs` logits for images of `size`; `name` is for messages.
    ///
    /// # Errors
    /// A loss that is no number.
    pub(crate) fn train(
        config: ClassifierConfig,
        name: &str,
        (size, outputs): ([i64; 2], i64),
        train: Labelled<'_>,
        loss: Loss<'_>,
        device: Device,
    ) -> Result<Self> {
        tch::manual_seed(stream(config.seed, "classifier weights", 0, 0).cast_signed());
        let vars = nn::VarStore::new(device);
        let layers = layers(&vars.root(), size);
        let join = Linear::new(&(vars.root() / "join"), CHANNELS[1] * POOLED * POOLED, CHANNELS[1]);
        let head = Linear::new(&(vars.root() / "head"), CHANNELS[1], outputs);
        let mut network = Self { size, layers, join, head, vars };
        tch::with_grad(|| network.fit(config, name, train, loss))?;
        network.vars.freeze();
        Ok(network)
    }

    fn fit(&self, config: ClassifierConfig, name: &str, train: Labelled<'_>, loss: Loss<'_>) -> Result<()> {
        let mut optimizer = nn::Adam::default().build(&self.vars, config.learning_rate)?;
        for step in 0..config.steps {
            let share = step as f64 / config.steps as f64;
            optimizer.set_lr(config.learning_rate * 0.5 * (1.0 + (PI * share).cos()));
            tch::manual_seed(stream(config.seed, "classifier batch", step, 0).cast_signed());
            let rows =
                Tensor::randint(train.images.size()[0], [config.batch_size], (Kind::Int64, Device::Cpu));
            let of = |all: &Tensor| all.index_select(0, &rows.to_device(all.device()));
            let images = self.input(&of(train.images));
            let labels = of(train.labels).to_device(self.vars.device());
            let loss = loss(&self.logits(&self.features(&images)), &labels);
            if !loss.double_value(&[]).is_finite() {
                return Err(Error::Diverged { term: format!("the loss of {name}"), step });
            }
            optimizer.backward_step(&loss);
        }
        Ok(())
    }

    /// Logits of any number of images, `[N, K]`.
    pub(crate) fn logits_of(&self, images: &Tensor) -> Tensor {
        let parts = images.split(EVALUATED, 0);
        let logits = |part: &Tensor| self.logits(&self.features(&self.input(part)));
        tch::no_grad(|| Tensor::cat(&parts.iter().map(logits).collect::<Vec<_>>(), 0))
    }

    /// Bytes or numbers in `[0, 1]`, grey or not, as f32 in `[-1, 1]`, `[B, 3, H, W]`.
    pub(crate) fn input(&self, images: &Tensor) -> Tensor {
        let unit = if images.kind() == Kind::Uint8 { 255.0 } else { 1.0 };
        let x = images.to_device(self.vars.device()).to_kind(Kind::Float) * (2.0 / unit) - 1.0;
        if x.size()[1] == 1 { x.expand([-1, 3, -1, -1], false) } else { x }
    }

    /// `[B, 3, H, W] -> [B, 128]`.
    pub(crate) fn features(&self, x: &Tensor) -> Tensor {
        let layer = |x: Tensor, (conv, norm): &(Conv2d, GroupNorm)| {
            norm.activated(&conv.forward(&x), None, Activation::Silu)
        };
        let x = self.layers.iter().fold(x.shallow_clone(), layer);
        self.join.forward(&x.adaptive_avg_pool2d([POOLED; 2]).flatten(1, -1)).silu()
    }

    /// `[B, 128] -> [B, K]`.
    pub(crate) fn logits(&self, features: &Tensor) -> Tensor {
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
