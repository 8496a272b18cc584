//! EfficientNet-Lite0 with its published weights against numpy. They are fetched by `cargo xtask setup`.

use super::{check_rows, fails, golden, noise, write};
use crate::{EfficientNetLite0, FeaturesConfig, Resources};
use heldout_core::FeatureExtractor;
use heldout_testkit::close;
use std::path::PathBuf;
use tch::{Kind, Tensor};

fn weights() -> PathBuf {
    let path = heldout_data::cache_folder().unwrap().join("networks/efficientnet-lite0.safetensors");
    assert!(path.is_file(), "{}: run `cargo xtask datasets fetch efficientnet-lite0`", path.display());
    path
}

#[test]
fn features_and_logits_are_those_of_numpy() {
    let golden = golden("efficientnet");
    let network = EfficientNetLite0::open(&weights()).unwrap();
    let small = golden.get("images").to_kind(Kind::Float) / 255.0;
    let images = small.repeat_interleave_self_int(4, 2, None).repeat_interleave_self_int(4, 3, None);
    let found = network.extract(&images).unwrap();
    close(&found.features, &golden.get("features"), 1e-4);
    close(&found.logits.unwrap(), &golden.get("logits"), 1e-4);
    assert_eq!(found.spatial.unwrap().size(), [3, 7 * 14 * 14]);
    let sizes: Vec<_> = network.stages(&images).unwrap().iter().map(Tensor::size).collect();
    let wanted = [[3, 16, 112, 112], [3, 24, 56, 56], [3, 40, 28, 28], [3, 112, 14, 14], [3, 320, 7, 7]];
    assert_eq!(sizes, wanted);
    check_rows(&network, &small, 1e-4);
    // A tabby cat (282) or an Egyptian one (285), whose photograph was made small.
    let cat = network.extract(&small.narrow(0, 1, 1)).unwrap().logits.unwrap().argmax(1, false);
    assert!((281..=285).contains(&cat.int64_value(&[0])), "{cat:?}");
}

/// Guidance asks for the slope of features by the image.
#[test]
fn features_can_be_differentiated_by_the_image() {
    let network = EfficientNetLite0::open(&weights()).unwrap();
    let image = noise(1, 3, 32).set_requires_grad(true);
    let features = network.extract(&image).unwrap().features;
    let slope = Tensor::run_backward(&[features.sum(Kind::Float)], &[&image], false, false).remove(0);
    assert!(slope.abs().max().double_value(&[]) > 0.0);
}

#[test]
fn weights_that_are_missing_or_others_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let resources = Resources { networks: Some(folder.path()), ..Resources::default() };
    let config: FeaturesConfig = "efficientnet-lite0".parse().unwrap();
    fails(config.build(resources), "cargo xtask datasets fetch efficientnet-lite0");
    fails(config.build(Resources::default()), "HELDOUT_CACHE");
    let path = folder.path().join("efficientnet-lite0.safetensors");
    write(&[("_fc.weight".to_owned(), noise(1, 1, 2))], &path);
    fails(config.build(resources), "_fc.bias: no tensor of this name");
    std::fs::write(&path, "cut").unwrap();
    fails(config.build(resources), "damaged or truncated");
    let mut tensors = Tensor::read_safetensors(weights()).unwrap();
    let one = tensors.iter_mut().find(|(name, _)| name == "_bn0.running_var").unwrap();
    one.1 = one.1.narrow(0, 0, 1);
    write(&tensors, &path);
    fails(config.build(resources), "_bn0.running_var: [1] where [32] is needed");
}
