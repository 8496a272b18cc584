//! Networks against their peers, and input that they cannot take.

mod attribute_decoder;
mod classifier;
mod clip;
mod config;
mod dinov2;
mod efficientnet_lite0;
mod images;
mod lpips;
mod torchscript;

use heldout_testkit::Golden;
use std::path::Path;
use tch::{Device, Kind, Tensor};

const MANIFEST: &str = env!("CARGO_MANIFEST_DIR");

fn golden(name: &str) -> Golden {
    Golden::open(MANIFEST, name)
}

/// A model folder of transformers': the tensors of a section of a golden file, and a configuration.
fn folder(golden: &Golden, section: &str, config: &serde_json::Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    write(&golden.section(section), &folder.path().join("model.safetensors"));
    folder
}

fn write(tensors: &[(String, Tensor)], path: &Path) {
    Tensor::write_safetensors(tensors, path).unwrap();
}

fn configs(name: &str) -> serde_json::Value {
    let path = Path::new(MANIFEST).join("tests/golden").join(name);
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Images of noise, `[rows, channels, side, side]`; the same every time.
fn noise(rows: i64, channels: i64, side: i64) -> Tensor {
    tch::manual_seed(1);
    Tensor::rand([rows, channels, side, side], (Kind::Float, Device::Cpu))
}

#[track_caller]
fn fails<T: std::fmt::Debug>(found: heldout_core::Result<T>, words: &str) {
    let message = found.expect_err("it was taken").to_string();
    assert!(message.contains(words), "{message}");
}

/// An image's features do not depend on the others of its batch.
#[track_caller]
fn check_rows(network: &dyn heldout_core::FeatureExtractor, images: &Tensor, tolerance: f64) {
    let all = network.extract(images).unwrap().features;
    let alone = network.extract(&images.narrow(0, 1, 1)).unwrap().features;
    heldout_testkit::close(&all.narrow(0, 1, 1), &alone, tolerance);
    assert!(!all.requires_grad(), "a network that is not trained keeps a graph");
}
