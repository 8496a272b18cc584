//! Resizing against Pillow, and what is no image.

use super::{fails, golden, noise};
use crate::{ImageInput, Pixels, Resize, in_batches, resize};
use heldout_core::{Error, FeatureExtractor};
use heldout_testkit::close;
use tch::{Device, Kind, Tensor};

/// Pillow's filters in floats, shrunk and enlarged, and torch's plain bilinear rule.
#[test]
fn rules_are_those_of_pillow_and_torch() {
    let golden = golden("images");
    let image = golden.get("image").unsqueeze(0);
    let rules = [
        (Resize::Bicubic, "bicubic"),
        (Resize::Bilinear, "bilinear"),
        (Resize::BilinearNoAntialias, "bilinear_no_antialias"),
    ];
    let mut compared = 0;
    for (rule, name) in rules {
        for (size, wanted) in golden.section(&format!("{name}.")) {
            let (h, w) = size.split_once('x').unwrap();
            let found = resize(&image, [h.parse().unwrap(), w.parse().unwrap()], rule).unwrap();
            close(&found.squeeze_dim(0), &wanted, 1e-5);
            compared += 1;
        }
    }
    assert_eq!(compared, 7);
    assert!(resize(&image, [20, 26], Resize::Bicubic).unwrap().equal(&image), "a size that is right stays");
}

#[test]
fn inputs_are_put_into_their_range() {
    let input = ImageInput {
        size: Some(4),
        range: [0.0, 255.0],
        mean: [127.0, 100.0, 0.0],
        std: [128.0, 50.0, 255.0],
        ..ImageInput::default()
    };
    input.check().unwrap();
    let half = Tensor::full([1, 3, 8, 8], 0.5, (Kind::Float, Device::Cpu));
    let found = input.prepare(&half).unwrap();
    assert_eq!(found.size(), [1, 3, 4, 4]);
    let each = found.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Float);
    close(&each, &Tensor::from_slice(&[0.5f32 / 128.0, 27.5 / 50.0, 0.5]), 1e-6);
    let images = noise(2, 3, 5);
    close(&ImageInput::default().prepare(&images).unwrap(), &images, 0.0);
    for (wrong, field) in [
        (ImageInput { size: Some(0), ..input }, "size: 0"),
        (ImageInput { range: [1.0, 1.0], ..input }, "range: [1, 1]"),
        (ImageInput { std: [1.0, 0.0, 1.0], ..input }, "std: [1.0, 0.0, 1.0]"),
        (ImageInput { mean: [f64::NAN; 3], ..input }, "mean: [NaN"),
    ] {
        fails(wrong.check(), field);
    }
}

#[test]
fn what_is_no_image_is_an_error() {
    fails(Pixels.extract(&noise(2, 1, 4)), "[2, 1, 4, 4]");
    fails(Pixels.extract(&noise(2, 3, 4).select(0, 0)), "[3, 4, 4]");
    fails(Pixels.extract(&noise(2, 3, 0)), "[2, 3, 0, 0]");
    fails(Pixels.extract(&noise(2, 3, 4).to_kind(Kind::Uint8)), "Uint8");
    assert_eq!(Pixels.extract(&noise(2, 3, 4)).unwrap().features.size(), [2, 48]);
}

/// Batches come one at a time; what one of them says does not end the others.
#[test]
fn batches_stream() {
    let made = std::cell::Cell::new(0);
    let batches = (0..3).map(|i| {
        made.set(made.get() + 1);
        match i {
            1 => Err(Error::config("image 7", "damaged")),
            _ => Ok(noise(4, 1, 3)),
        }
    });
    let mut stream = in_batches(&Pixels, batches);
    let first = stream.next().unwrap().unwrap().features;
    assert_eq!(made.get(), 1, "batches are made before they are needed");
    let grey = noise(4, 1, 3).flatten(1, -1);
    assert!(first.equal(&Tensor::cat(&[&grey, &grey, &grey], 1)), "the channel is not repeated");
    fails(stream.next().unwrap(), "image 7: damaged");
    assert!(stream.next().unwrap().is_ok());
    assert!(stream.next().is_none());
}
