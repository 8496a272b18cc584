//! Beside the package `lpips`.

use crate::Lpips;
use heldout_testkit::{Golden, close};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn open(net: &str) -> heldout_core::Result<Lpips> {
    let path = |part: &str| golden_path(&format!("lpips_{net}_{part}.safetensors"));
    Lpips::open(&path("trunk"), &path("heads"), Device::Cpu)
}

#[test]
fn distances_and_gradients_are_those_of_the_package() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "lpips");
    for (net, name) in [("alex", "LPIPS(AlexNet)"), ("vgg", "LPIPS(VGG16)")] {
        let lpips = open(net).unwrap();
        assert_eq!(lpips.name(), name);
        let get = |part: &str| golden.get(&format!("{net}.{part}"));
        let a = get("a").set_requires_grad(true);
        let distance = lpips.distance(&a, &get("b")).unwrap();
        close(&distance, &get("distance"), 2e-6);
        distance.sum(Kind::Float).backward();
        close(&a.grad(), &get("gradient"), 2e-6);
    }
}

#[test]
fn weights_and_images_that_do_not_fit_are_named() {
    let heads = golden_path("lpips_vgg_heads.safetensors");
    let error = Lpips::open(&golden_path("lpips_alex_trunk.safetensors"), &heads, Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("AlexNet"), "{error}");
    let lpips = open("alex").unwrap();
    let images = |side| Tensor::rand([1, 3, side, side], (Kind::Float, Device::Cpu));
    assert!(lpips.distance(&images(48), &images(40)).is_err());
    assert!(lpips.distance(&images(8), &images(8)).is_err());
}
