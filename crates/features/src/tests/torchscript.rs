//! TorchScript that Python wrote.

use super::{MANIFEST, check_rows, fails, golden, noise};
use crate::torchscript::INCEPTION_SHA256;
use crate::{FeaturesConfig, INCEPTION, ImageInput, Resources, TorchScriptConfig};
use heldout_core::FeatureExtractor;
use heldout_testkit::close;
use std::path::{Path, PathBuf};
use tch::Device;

fn file(name: &str) -> PathBuf {
    Path::new(MANIFEST).join("tests/golden").join(name)
}

/// As the script that made it says.
fn declared() -> TorchScriptConfig {
    let input =
        ImageInput { range: [0.0, 255.0], mean: [127.0; 3], std: [128.0; 3], ..ImageInput::default() };
    let plain = TorchScriptConfig::new(file("network.pt"));
    TorchScriptConfig { input, arguments: vec![true], logits: Some(1), spatial: Some(2), ..plain }
}

#[test]
fn outputs_are_those_of_python() {
    let golden = golden("torchscript");
    let network = declared().build(Device::Cpu).unwrap();
    let images = golden.get("images");
    let found = network.extract(&images).unwrap();
    close(&found.features, &golden.get("features"), 1e-5);
    close(&found.logits.unwrap(), &golden.get("logits"), 1e-5);
    close(&found.spatial.unwrap(), &golden.get("spatial"), 1e-5);
    assert_eq!(network.name(), "torchscript(network)");
    check_rows(&network, &images, 1e-5);
    // What is declared is what is done.
    let halved = TorchScriptConfig { arguments: Vec::new(), ..declared() }.build(Device::Cpu).unwrap();
    close(&(halved.extract(&images).unwrap().features * 2.0), &golden.get("features"), 1e-5);
    let sized = ImageInput { size: Some(9), ..declared().input };
    let sized = TorchScriptConfig { input: sized, ..declared() }.build(Device::Cpu).unwrap();
    assert_eq!(sized.extract(&images).unwrap().spatial.unwrap().size(), [2, 4 * 7 * 7]);
}

#[test]
fn outputs_that_are_no_vectors_are_errors() {
    let images = noise(2, 3, 6);
    let extract = |config: TorchScriptConfig| config.build(Device::Cpu).unwrap().extract(&images);
    fails(extract(TorchScriptConfig::new(file("maps.pt"))), "[2, 3, 3, 3], and [B, D] is needed");
    fails(extract(TorchScriptConfig { features: 2, ..declared() }), "[2, 4, 4, 4], and [B, D] is needed");
    fails(
        extract(TorchScriptConfig { logits: Some(3), ..declared() }),
        "output 3 is asked for, and there are 3",
    );
    let too_many = TorchScriptConfig { arguments: vec![true, false], ..declared() };
    fails(extract(too_many), "does not run on [2, 3, 6, 6]");
    fails(declared().build(Device::Cpu).unwrap().extract(&noise(1, 1, 6)), "[1, 1, 6, 6]");
}

#[test]
fn files_that_are_no_program_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let build = |path: PathBuf| TorchScriptConfig::new(path).build(Device::Cpu);
    fails(build(folder.path().join("none.pt")), "is not there");
    let text = folder.path().join("text.pt");
    std::fs::write(&text, "no program").unwrap();
    fails(build(text), "is no TorchScript");
    let wrong = ImageInput { std: [0.0; 3], ..ImageInput::default() };
    fails(TorchScriptConfig { input: wrong, ..declared() }.build(Device::Cpu), "input.std");
}

/// No other file is called FID's network.
#[test]
fn inception_is_known_by_its_checksum() {
    let named = TorchScriptConfig { name: Some(INCEPTION.to_owned()), ..declared() };
    fails(named.build(Device::Cpu), "is not the network of FID");
    let config = FeaturesConfig::Inception { path: file("network.pt") };
    fails(config.build(Resources::default()), "is not the network of FID");
    let other = TorchScriptConfig { name: Some("mine".to_owned()), ..declared() };
    assert_eq!(other.build(Device::Cpu).unwrap().name(), "mine");
}

/// Nor is the file itself, where it is given other images than FID gives it.
#[test]
fn the_network_of_fid_is_called_so_only_where_it_is_used_as_fid_does() {
    let fid = TorchScriptConfig::inception("inception.pt");
    assert_eq!(fid.title(INCEPTION_SHA256).unwrap(), INCEPTION);
    let unnamed = TorchScriptConfig { name: None, ..fid.clone() };
    assert_eq!(unnamed.title(INCEPTION_SHA256).unwrap(), INCEPTION);
    let unit =
        TorchScriptConfig { name: None, arguments: vec![true], ..TorchScriptConfig::new("inception.pt") };
    assert_eq!(unit.title(INCEPTION_SHA256).unwrap(), "torchscript(inception)");
    let logits = TorchScriptConfig { features: 1, ..unnamed };
    assert_eq!(logits.title(INCEPTION_SHA256).unwrap(), "torchscript(inception)");
    let named = TorchScriptConfig { name: Some(INCEPTION.to_owned()), ..unit };
    assert!(named.title(INCEPTION_SHA256).unwrap_err().to_string().contains("[0, 255]"));
    assert_eq!(TorchScriptConfig { name: None, ..fid }.title("0").unwrap(), "torchscript(inception)");
}
