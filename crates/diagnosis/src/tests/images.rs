//! Receptive field and mode coverage.

use super::{F64, refused};
use crate::{Labels, ReceptiveField, mode_coverage, receptive_field};
use heldout_core::{Backbone, Cond, Input, Probe};
use tch::{Tensor, nn};

/// As many 3x3 convolutions, or attention of every place over all.
#[derive(Debug)]
enum Network {
    Convolutions(Vec<nn::Conv2D>),
    Attention,
    Identity,
    Blind,
}

impl Backbone for Network {
    fn forward(&self, input: Input<'_>, _: &mut dyn Probe) -> Tensor {
        let x = input.x;
        match self {
            Self::Convolutions(layers) => {
                layers.iter().fold(x.shallow_clone(), |x, layer| x.apply(layer).silu())
            }
            Self::Attention => {
                let tokens = x.flatten(2, -1).transpose(1, 2); // [B, L, C]
                let scores = tokens.matmul(&tokens.transpose(1, 2)).softmax(-1, tokens.kind());
                scores.matmul(&tokens).transpose(1, 2).reshape(x.size())
            }
            Self::Identity => x * 3.0,
            Self::Blind => x.zeros_like(),
        }
    }
}

fn field(network: &Network, size: [i64; 2]) -> Option<ReceptiveField> {
    tch::manual_seed(1);
    let x = Tensor::randn([6, 2, size[0], size[1]], F64);
    let level = Tensor::ones([6], F64);
    let cond = Cond::default();
    receptive_field(network, Input { x: &x, noise_level: &level, cond: &cond, train: false })
}

#[test]
fn convolutions_see_exactly_as_far_as_they_reach() {
    let three = nn::ConvConfig { padding: 1, ..Default::default() };
    for depth in 1..=4usize {
        tch::manual_seed(0);
        let mut vars = nn::VarStore::new(tch::Device::Cpu);
        let layer = |i: usize| nn::conv2d(&(vars.root() / i), 2, 2, 3, three);
        let network = Network::Convolutions((0..depth).map(layer).collect());
        vars.double();
        let found = field(&network, [15, 15]).unwrap();
        assert_eq!(found.support(), 2 * depth as i64 + 1);
        assert_eq!(found.side(1.0), 2 * depth as i64 + 1);
        assert!(found.side(0.95) <= found.support() && found.side(0.5) <= found.side(0.95));
        assert!((found.energy.sum(tch::Kind::Double).double_value(&[]) - 1.0).abs() < 1e-12);
        // Small kernels weigh the middle most, so that little of the reach is used.
        assert!(found.radius(1.0) < depth as f64 * 1.5 && found.radius(1.0) < found.radius(0.5));
    }
}

#[test]
fn attention_sees_all_and_a_point_sees_itself() {
    assert_eq!(field(&Network::Attention, [9, 9]).unwrap().support(), 9);
    assert_eq!(field(&Network::Attention, [8, 12]).unwrap().support(), 12);
    let point = field(&Network::Identity, [8, 8]).unwrap();
    assert_eq!((point.support(), point.side(0.95), point.radius(1.0)), (1, 1, 0.0));
    assert_eq!(point.energy.double_value(&point.centre()), 1.0);
    assert!(field(&Network::Blind, [8, 8]).is_none());
}

/// `n` of each class in `classes`.
fn of(classes: std::ops::Range<i64>, n: usize) -> Vec<i64> {
    classes.flat_map(|class| vec![class; n]).collect()
}

#[test]
fn missing_modes_are_named_and_weighed() {
    let (held_out, train) = (of(0..10, 100), of(0..10, 50));
    let samples = of(0..5, 100);
    let labels = Labels { samples: &samples, held_out: &held_out, train: Some(&train) };
    let found = mode_coverage(labels, 10, 0).unwrap();
    assert_eq!(found.missing.iter().map(|m| m.class).collect::<Vec<_>>(), [5, 6, 7, 8, 9]);
    assert!((found.missing[0].by_chance / 0.9f64.powi(500) - 1.0).abs() < 1e-9);
    assert!((found.total_variation.model.value - 0.5).abs() < 1e-12);
    assert!((found.kl.model.value - 2f64.ln()).abs() < 0.05, "{:?}", found.kl);
    assert!(found.total_variation.model.lower > 0.4 && found.total_variation.floor.upper < 0.2);
    assert!(found.p_value < 0.002);
    assert_eq!(found.classes[0].samples.value, 0.2);
    // Wilson's interval of 0 of 500: z^2 / (n + z^2).
    let none = found.classes[9].samples;
    assert!(none.lower < 1e-12 && (none.upper - 0.007_624_2).abs() < 1e-6, "{none:?}");
    assert_eq!(found, mode_coverage(labels, 10, 0).unwrap());
}

#[test]
fn equal_shares_are_at_the_floor() {
    let (held_out, samples) = (of(0..4, 200), of(0..4, 40));
    let found = mode_coverage(Labels { samples: &samples, held_out: &held_out, train: None }, 4, 0).unwrap();
    assert!(found.missing.is_empty() && found.unjudged.is_empty() && found.p_value == 1.0);
    assert_eq!(found.total_variation.model.value, 0.0);
    assert!(found.total_variation.floor.value > 0.0, "halves differ by chance");
    // A class that is rarer than one in samples goes missing by chance.
    let rare = [of(0..1, 999), vec![1]].concat();
    let one = mode_coverage(Labels { samples: &of(0..1, 50), held_out: &rare, train: None }, 2, 0).unwrap();
    assert!(one.missing[0].by_chance > 0.9 && one.p_value > 0.5);
    // A class that no held-out image has is neither missing nor there.
    let five = mode_coverage(Labels { samples: &samples, held_out: &held_out, train: None }, 5, 0).unwrap();
    assert_eq!((five.unjudged, five.missing), (vec![4], Vec::new()));
}

#[test]
fn labels_that_do_not_fit_are_refused() {
    let cover = |samples: &[i64], held_out: &[i64], classes| {
        mode_coverage(Labels { samples, held_out, train: None }, classes, 0)
    };
    refused(cover(&[0, 3], &[0, 1], 3), "samples", "label 3 of image 1");
    refused(cover(&[0], &[0, -1], 3), "held_out", "label -1 of image 1");
    refused(cover(&[], &[0, 1], 3), "samples", "0 labels");
    refused(cover(&[0], &[0], 3), "held_out", "1 labels");
    refused(cover(&[0], &[0, 0], 0), "classes", "0: ");
    let train = Labels { samples: &[0], held_out: &[0, 0], train: Some(&[7]) };
    refused(mode_coverage(train, 3, 0), "train", "label 7");
}
