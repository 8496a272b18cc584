//! Hints against scikit-image and scipy, and what they are by definition.

use crate::hints::{Hint, HintTechnique, canny, edge_f1};
use heldout_testkit::{Golden, close};
use tch::{Device, Kind, Tensor};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn golden() -> Golden {
    Golden::open(env!("CARGO_MANIFEST_DIR"), "hints")
}

fn every() -> [HintTechnique; 6] {
    [
        HintTechnique::Canny { sigma: 1.0, low: 0.1, high: 0.2 },
        HintTechnique::Sobel,
        HintTechnique::Palette { cell: 4 },
        HintTechnique::BlurredColor { sigma: 2.0 },
        HintTechnique::LowPass { sigma: 2.0 },
        HintTechnique::Texture { sigma: 1.5 },
    ]
}

/// At most 3 of 1000 pixels differ: ties of neighbours in f32.
#[test]
fn canny_is_that_of_scikit_image() {
    let golden = golden();
    let grey = golden.get("grey");
    for (name, sigma, low, high) in [("default", 1.0, 0.1, 0.2), ("wide", 2.0, 0.05, 0.4)] {
        let theirs = golden.get(&format!("canny.{name}")).to_kind(Kind::Float);
        let ours = canny(&grey, sigma, low, high);
        let share = |t: &Tensor| t.mean(Kind::Double).double_value(&[]);
        let (edges, differ) = (share(&theirs), share(&(&ours - &theirs).abs()));
        assert!(edges > 0.02 && differ <= 0.003, "{name}: {edges} are edges, {differ} differ");
        let through = HintTechnique::Canny { sigma, low, high }.compute(&(&grey * 2.0 - 1.0)).unwrap();
        close(&edge_f1(&through, &theirs, 1).unwrap(), &Tensor::ones([4], F32), 0.01);
    }
}

#[test]
fn filters_are_those_of_scipy() {
    let golden = golden();
    let images = golden.get("grey") * 2.0 - 1.0;
    let sobel = HintTechnique::Sobel.compute(&images).unwrap();
    close(&(sobel * 20f64.sqrt()), &golden.get("sobel"), 2e-5);
    let blurred = HintTechnique::LowPass { sigma: 2.0 }.compute(&images).unwrap();
    close(&blurred, &golden.get("gaussian"), 2e-5);
}

/// Channels, range, and each image for itself; frames of a clip are images.
#[test]
fn every_hint_keeps_the_law() {
    tch::manual_seed(0);
    for channels in [1, 3] {
        let images = Tensor::rand([4, channels, 12, 8], F32) * 2.0 - 1.0;
        for hint in every() {
            let all = hint.compute(&images).unwrap();
            assert_eq!(all.size(), [4, hint.channels(channels), 12, 8], "{}", hint.name());
            assert!(all.min().double_value(&[]) >= 0.0 && all.max().double_value(&[]) <= 1.0);
            assert!((all.max() - all.min()).double_value(&[]) > 0.01, "{} says nothing", hint.name());
            let alone = hint.compute(&images.narrow(0, 2, 1)).unwrap();
            close(&alone, &all.narrow(0, 2, 1), 1e-6);
            let clip = images.view([2, 2, channels, 12, 8]).transpose(1, 2);
            let frames = hint.compute(&clip).unwrap();
            close(&frames.transpose(1, 2).flatten(0, 1), &all, 1e-6);
        }
    }
}

/// The steepest edge that there is reaches 1, and the texture of stripes lies across them.
#[test]
fn gradients_are_scaled_and_directed() {
    let steep = Tensor::from_slice(&[-1.0f32, -1.0, 1.0, -1.0, 0.0, 1.0, -1.0, 1.0, 1.0]).view([1, 1, 3, 3]);
    let sobel = HintTechnique::Sobel.compute(&steep).unwrap().double_value(&[0, 0, 1, 1]);
    assert!(sobel > 0.94 && sobel <= 1.0, "{sobel}");
    let places = Tensor::arange(24, F32);
    let wave = |across: f64, down: f64| {
        let phase = places.view([1, 1, 1, 24]) * across + places.view([1, 1, 24, 1]) * down;
        HintTechnique::Texture { sigma: 2.0 }.compute(&phase.sin()).unwrap()
    };
    for (direction, (across, down)) in
        [(0.8, 0.0), (0.8, 0.8), (0.0, 0.8), (-0.8, 0.8)].into_iter().enumerate()
    {
        let energy = wave(across, down).slice(2, 6, 18, 1).slice(3, 6, 18, 1).mean_dim(
            [0i64, 2, 3].as_slice(),
            false,
            Kind::Float,
        );
        assert_eq!(energy.argmax(0, false).int64_value(&[]), direction as i64, "{energy:?}");
        assert!(energy.double_value(&[(direction as i64 + 2) % 4]) < 0.05 * energy.max().double_value(&[]));
    }
}

#[test]
fn a_palette_is_the_means_of_squares() {
    tch::manual_seed(0);
    let images = Tensor::rand([1, 3, 8, 4], F32) * 2.0 - 1.0;
    let palette = HintTechnique::Palette { cell: 4 }.compute(&images).unwrap();
    for square in 0..2 {
        let wanted =
            (images.narrow(2, 4 * square, 4).mean_dim([2i64, 3].as_slice(), true, Kind::Float) + 1.0) / 2.0;
        close(&palette.narrow(2, 4 * square, 4), &wanted.expand([1, 3, 4, 4], false), 1e-6);
    }
}

#[test]
fn motion_is_what_changes_between_frames() {
    let clip =
        Tensor::from_slice(&[-1.0f32, -1.0, 1.0, 0.0]).view([1, 1, 4, 1, 1]).expand([1, 3, 4, 2, 2], false);
    let motion = HintTechnique::Motion.compute(&clip).unwrap();
    assert_eq!(motion.size(), [1, 1, 4, 2, 2]);
    let wanted = Tensor::from_slice(&[0.5f32, 0.5, 1.0, 0.25]).view([1, 1, 4, 1, 1]);
    close(&motion, &wanted.expand([1, 1, 4, 2, 2], false), 1e-6);
}

/// A long weak edge with one strong pixel at its end is found whole, however far the other end is.
#[test]
fn weak_edges_are_linked_over_any_distance() {
    let ramp = Tensor::linspace(0.15, 0.05, 90, F32).view([1, 1, 1, 90]);
    let step =
        Tensor::cat(&[ramp.zeros_like().expand([1, 1, 6, 90], false), ramp.expand([1, 1, 6, 90], false)], 2);
    let strongest = 0.45; // of the first columns alone
    let edges = canny(&step, 0.6, 0.02, strongest);
    let columns = edges.amax([2i64], false);
    assert_eq!(columns.slice(2, 1, 89, 1).min().double_value(&[]), 1.0);
    assert_eq!(canny(&step, 0.6, 0.02, 4.0).max().double_value(&[]), 0.0, "nothing is strong");
}

/// By counting: one pixel beside is near enough, two are not.
#[test]
fn edge_f1_is_as_counted() {
    let at = |columns: &[i64]| {
        let map = Tensor::zeros([1, 1, 5, 9], F32);
        for c in columns {
            let _ = map.narrow(3, *c, 1).fill_(1.0);
        }
        map
    };
    let f1 = |a: &[i64], b: &[i64], tolerance| edge_f1(&at(a), &at(b), tolerance).unwrap().double_value(&[0]);
    assert_eq!(f1(&[2], &[2], 0), 1.0);
    assert_eq!(f1(&[2], &[3], 0), 0.0);
    assert_eq!(f1(&[2], &[3], 1), 1.0);
    assert_eq!(f1(&[2], &[4], 1), 0.0);
    assert_eq!(f1(&[2], &[4], 2), 1.0);
    // Half of what was found is right, all that was wanted is found.
    assert!((f1(&[1, 6], &[1], 1) - 2.0 / 3.0).abs() < 1e-12);
    assert_eq!((f1(&[], &[], 1), f1(&[1], &[], 1), f1(&[], &[1], 1)), (1.0, 0.0, 0.0));
}

#[test]
fn what_no_hint_can_be_computed_from_is_named() {
    let fails = |hint: HintTechnique, size: &[i64], word: &str| {
        let message = hint.compute(&Tensor::zeros(size, F32)).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    };
    fails(HintTechnique::Motion, &[2, 3, 8, 8], "[B, C, T, H, W]");
    fails(HintTechnique::Sobel, &[3, 8, 8], "[B, C, H, W]");
    fails(HintTechnique::Sobel, &[1, 4, 8, 8], "1 or 3 channels");
    fails(HintTechnique::Sobel, &[0, 3, 8, 8], "at least one image");
    fails(HintTechnique::Palette { cell: 3 }, &[1, 3, 9, 8], "9x8: sides must be multiples of the cell, 3");
    fails(HintTechnique::Palette { cell: 0 }, &[1, 3, 8, 8], "cell: 0");
    fails(HintTechnique::LowPass { sigma: f64::NAN }, &[1, 3, 8, 8], "sigma: NaN");
    fails(HintTechnique::Canny { sigma: 1.0, low: 0.3, high: 0.2 }, &[1, 3, 8, 8], "low: 0.3");
    let bytes = Tensor::zeros([1, 3, 8, 8], (Kind::Uint8, Device::Cpu));
    assert!(HintTechnique::Sobel.compute(&bytes).unwrap_err().to_string().contains("Uint8"));
    let (a, b) = (Tensor::zeros([1, 1, 8, 8], F32), Tensor::zeros([1, 1, 8, 9], F32));
    assert!(edge_f1(&a, &b, 1).unwrap_err().to_string().starts_with("edges"));
    assert!(edge_f1(&a, &a, -1).unwrap_err().to_string().starts_with("tolerance: -1"));
    let unknown = serde_json::from_str::<HintTechnique>(r#"{"kind": "canny", "sigmas": 1}"#);
    assert!(unknown.unwrap_err().to_string().contains("sigmas"));
    // Small images have edges nowhere, and no window is too wide.
    let small =
        HintTechnique::Canny { sigma: 3.0, low: 0.1, high: 0.2 }.compute(&Tensor::ones([1, 1, 1, 2], F32));
    assert_eq!(small.unwrap().max().double_value(&[]), 0.0);
}
