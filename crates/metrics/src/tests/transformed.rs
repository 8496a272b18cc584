//! Copies in disguise where the training set has its images in disguise as well.

use super::array;
use crate::{MEMORIZED_RATIO, transformed_nearest};
use ndarray::{Array2, Axis, concatenate};
use tch::{Device, Kind, Tensor};

const SHAPE: [usize; 3] = [3, 8, 8];

fn images(seed: i64, n: i64) -> Tensor {
    tch::manual_seed(seed);
    Tensor::rand([n, 3, 8, 8], (Kind::Float, Device::Cpu))
}

/// One pixel to the right, the border going on.
fn shifted(x: &Tensor) -> Tensor {
    x.replication_pad2d([1, 0, 0, 0]).narrow(3, 0, 8)
}

/// Share of the queries that are copies.
fn copied(queries: &Tensor, train: &Array2<f32>) -> f64 {
    let found = transformed_nearest(array(queries).view(), train.view(), SHAPE).unwrap();
    let copies = found.memorized(MEMORIZED_RATIO);
    copies.iter().filter(|copy| **copy).count() as f64 / copies.len() as f64
}

/// A mirror image, a shifted one or a damaged one beside an image must not hide copies of it.
#[test]
fn a_twin_in_the_training_set_hides_no_copies() {
    let (train, noise) = (images(1, 60), images(2, 60) - 0.5);
    let twins = [train.flip([3]), shifted(&train), train.flip([3]) + 0.01 * &noise];
    for (name, twin) in ["mirrored", "shifted", "mirrored and damaged"].iter().zip(twins) {
        let with_twins = concatenate![Axis(0), array(&train), array(&twin)];
        for (copies, queries) in [("equal", train.copy()), ("noisy", &train + 0.02 * &noise)] {
            assert_eq!(copied(&queries, &with_twins), 1.0, "{name}, {copies}");
            assert_eq!(copied(&queries.flip([3]), &with_twins), 1.0, "{name}, {copies}, flipped");
        }
        assert_eq!(copied(&images(3, 60), &with_twins), 0.0, "{name}: fresh images are no copies");
    }
}

/// The mirror image of a training image is the image: what is far from both is compared with the next.
#[test]
fn mirror_images_count_once() {
    let train = images(4, 30);
    let both = concatenate![Axis(0), array(&train), array(&train.flip([3]))];
    let queries = array(&(images(4, 30) + 0.3 * images(5, 30)));
    let found = transformed_nearest(queries.view(), both.view(), SHAPE).unwrap();
    assert_eq!(found, transformed_nearest(queries.view(), array(&train).view(), SHAPE).unwrap());
}

/// Colour images, flipped, shifted, or 2 % brighter.
#[test]
fn copies_in_colour_are_found() {
    let train = images(6, 100);
    for disguised in [train.flip([3]), shifted(&train), shifted(&train.flip([3])), &train * 1.02] {
        assert_eq!(copied(&disguised, &array(&train)), 1.0);
    }
    assert_eq!(copied(&images(7, 100), &array(&train)), 0.0);
}
