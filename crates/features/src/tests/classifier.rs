//! The classifier on the digits that ship.

use super::{check_rows, fails, noise};
use crate::{Classifier, ClassifierConfig, DataSet, FeaturesConfig, Labelled, Resources};
use heldout_core::{FeatureExtractor, Result};
use heldout_data::ImageSet;
use heldout_testkit::close;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Images and labels of a data set, `[N, 1, H, W]` in bytes and `[N]`.
fn data(name: &str) -> (Tensor, Tensor) {
    let set = ImageSet::open(&Path::new(super::MANIFEST).join("../../datasets").join(name)).unwrap();
    let all: Vec<usize> = (0..set.len()).collect();
    (set.bytes(&all).unwrap(), Tensor::from_slice(&set.labels.unwrap()))
}

fn train(config: ClassifierConfig, images: &Tensor, labels: &Tensor, cut: i64) -> Result<Classifier> {
    let rest = images.size()[0] - cut;
    let (seen, unseen) = (images.narrow(0, 0, cut), images.narrow(0, cut, rest));
    let (seen_labels, unseen_labels) = (labels.narrow(0, 0, cut), labels.narrow(0, cut, rest));
    let train = Labelled { images: &seen, labels: &seen_labels };
    let held_out = Labelled { images: &unseen, labels: &unseen_labels };
    Classifier::train(config, "digits", train, held_out, Device::Cpu)
}

/// Handwritten digits of 8x8 are told apart, and the same seed makes the same network.
#[test]
fn it_learns_and_is_a_function_of_its_seed() {
    let (images, labels) = data("digits");
    let config = ClassifierConfig { steps: 80, ..ClassifierConfig::default() };
    let [a, b] = [(); 2].map(|()| train(config, &images, &labels, 1400).unwrap());
    assert!(a.held_out_accuracy() > 0.85, "{}", a.held_out_accuracy());
    assert_eq!(a.held_out_accuracy().to_bits(), b.held_out_accuracy().to_bits());
    let rgb = images.narrow(0, 0, 8).to_kind(Kind::Float).expand([-1, 3, -1, -1], false) / 255.0;
    let [fa, fb] = [&a, &b].map(|c| c.extract(&rgb).unwrap());
    assert!(fa.features.equal(&fb.features));
    assert_eq!((fa.features.size(), fa.logits.unwrap().size()), (vec![8, 128], vec![8, 10]));
    let other = train(ClassifierConfig { seed: 1, steps: 2, ..config }, &images, &labels, 1400).unwrap();
    assert!(!other.extract(&rgb).unwrap().features.equal(&fa.features));
    assert_eq!(a.name(), "classifier(digits)");
    check_rows(&a, &rgb, 1e-5);
    // Bytes and numbers in [0, 1] are the same images; others are resized.
    let unit = images.to_kind(Kind::Float) / 255.0;
    let short = ClassifierConfig { steps: 5, ..config };
    let [a, b] = [&images, &unit].map(|x| train(short, x, &labels, 1400).unwrap());
    close(&a.extract(&rgb).unwrap().features, &b.extract(&rgb).unwrap().features, 1e-4);
    assert_eq!(a.extract(&noise(2, 3, 20)).unwrap().features.size(), [2, 128]);
}

#[test]
fn it_is_built_from_labelled_data() {
    let (images, labels) = data("digits");
    let set = Labelled { images: &images, labels: &labels };
    let labelled = Some(DataSet { name: "digits", train: set, held_out: set });
    let config = FeaturesConfig::Classifier(ClassifierConfig { steps: 1, ..ClassifierConfig::default() });
    let network = config.build(Resources { labelled, ..Resources::default() }).unwrap();
    assert_eq!(network.name(), "classifier(digits)");
}

#[test]
fn images_and_labels_go_together() {
    let (images, labels) = (noise(20, 1, 8), Tensor::arange(20, (Kind::Int64, Device::Cpu)).remainder(4));
    let quick = ClassifierConfig { steps: 1, batch_size: 4, ..ClassifierConfig::default() };
    let with = |images: &Tensor, labels: &Tensor| train(quick, images, labels, 16);
    with(&images, &labels).unwrap();
    let few = labels.narrow(0, 0, 19);
    let held_out = Labelled { images: &images, labels: &few };
    let seen = Labelled { images: &images, labels: &labels };
    let both = |a, b| Classifier::train(quick, "noise", a, b, Device::Cpu);
    fails(both(seen, held_out), "held-out labels: [19]");
    fails(both(held_out, seen), "train labels: [19]");
    let large = noise(20, 1, 9);
    fails(both(seen, Labelled { images: &large, labels: &labels }), "held-out images: [9, 9]");
    fails(with(&images, &(&labels - 1)), "train labels: -1");
    fails(with(&images, &labels.zeros_like()), "one class alone");
    fails(with(&noise(20, 2, 8), &labels), "[16, 2, 8, 8]");
    fails(with(&images.to_kind(Kind::Int64), &labels), "Int64");
    let more = labels.shallow_clone() + 5i64 * Tensor::arange(20, (Kind::Int64, Device::Cpu)).ge(18);
    fails(with(&images, &more), "no training image has it");
    fails(train(ClassifierConfig { steps: 0, ..quick }, &images, &labels, 16), "steps: 0");
    fails(
        train(ClassifierConfig { learning_rate: f64::NAN, ..quick }, &images, &labels, 16),
        "learning_rate",
    );
}
