//! How far a network sees.

use heldout_core::{Backbone, Cond, Input, stream};
use heldout_diagnosis::receptive_field;
use heldout_weights::Example;
use serde::Serialize;
use tch::{Device, Kind, Tensor};

/// Inputs over which it is averaged.
const SAMPLES: i64 = 8;

/// The gradient of the middle of the output with respect to the input; Luo et al. 2016, section 2.
#[derive(Debug, Serialize)]
pub struct ReceptiveField {
    /// Root mean square distance from the middle, in pixels, weighted by the gradient's root mean square.
    pub radius: f64,
    /// Side of a square of as many pixels as have more than 4.55 % of the largest gradient, as in the paper.
    pub side: f64,
    /// Share of the image that those are.
    pub share: f64,
    /// Side of the image.
    pub image_side: i64,
    /// Inputs of unit Gaussian noise over which the squared gradient was averaged.
    pub samples: i64,
}

/// The conditions of an example, each made from its shape.
pub(super) fn condition(example: &Example, make: impl Fn(&str, &[i64]) -> Tensor) -> Cond {
    Cond::from_fields(|name| {
        let (_, dims) = example.conditions.iter().find(|(needed, _)| *needed == name)?;
        Some(make(name, dims))
    })
}

/// `None` where the output does not depend on the input.
pub(super) fn measure_field(backbone: &dyn Backbone, example: &Example) -> Option<ReceptiveField> {
    let [_, channels, height, width] = example.sample[..] else { return None };
    tch::manual_seed(stream(0, "receptive field", 0, 0) as i64);
    let f32 = (Kind::Float, Device::Cpu);
    let x = Tensor::randn([SAMPLES, channels, height, width], f32);
    let noise_level = Tensor::full([SAMPLES], 500.0, f32);
    let cond = condition(example, |name, dims| {
        let dims = [&[SAMPLES], &dims[1..]].concat();
        match name {
            "class_labels" if dims.len() == 1 => Tensor::zeros(dims, (Kind::Int64, Device::Cpu)),
            _ => Tensor::randn(dims, f32),
        }
    });
    let input = Input { x: &x, noise_level: &noise_level, cond: &cond, train: false };
    let field = receptive_field(backbone, input)?;
    let size = field.energy.sqrt();
    let seen = size.gt(size.max().double_value(&[]) * 0.0455).sum(Kind::Double).double_value(&[]);
    Some(ReceptiveField {
        radius: field.radius(0.5),
        side: seen.sqrt(),
        share: seen / (height * width) as f64,
        image_side: height,
        samples: SAMPLES,
    })
}
