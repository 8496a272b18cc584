//! Augmentations: laws, torchvision, and what each is for.

use super::images;
use crate::{
    AugmentTechnique, Augmented, Fill, Interpolation, Padding, adjust_brightness, adjust_contrast,
    adjust_hue, adjust_saturation, affine, crop, erase, flip, gaussian_blur, rotate,
};
use heldout_core::{Augment, Batch, BatchSource, Clock, Cond, Known};
use heldout_testkit::{Blobs, Golden, check_absent_augment, check_augment, check_batch_source, close, same};
use serde_json::{Value, from_value, json};
use std::f64::consts::FRAC_PI_2;
use tch::{Device, Kind, Tensor};

const CLOCK: Clock = Clock { step: 3, total: 10 };

fn built(text: Value, channels: i64) -> Box<dyn Augment> {
    from_value::<AugmentTechnique>(text).unwrap().build([channels, 8, 8]).unwrap()
}

fn run(text: Value, batch: &Batch) -> Batch {
    tch::manual_seed(5);
    built(text, batch.x_start.size()[1]).augment(batch.shallow_clone(), CLOCK)
}

fn floats(values: &[f32]) -> Tensor {
    Tensor::from_slice(values)
}

/// Many copies of one image, that no mirror and no turn brings back, in `[-1, 1]`.
fn copies(n: i64, channels: i64) -> Batch {
    let one = images(channels).x_start.narrow(0, 0, 1);
    Batch::new(one.repeat([n, 1, 1, 1]), Cond::default())
}

/// Every technique but the dropout of labels, with all that it has switched on.
fn techniques() -> Vec<Value> {
    let jitter =
        json!({"kind": "color_jitter", "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1});
    vec![
        json!({"kind": "crop", "padding": 2}),
        json!({"kind": "flip", "vertical": true}),
        json!({"kind": "rotation", "degrees": 30.0}),
        jitter,
        json!({"kind": "cutout", "size": 0.5}),
        json!({"kind": "mixup", "alpha": 0.4}),
        json!({"kind": "non_leaky"}),
        json!({"kind": "gaussian_blur", "sigma": [0.5, 1.5], "kernel": 7}),
        json!({"kind": "erasing", "probability": 1.0}),
    ]
}

#[test]
fn every_augmentation_keeps_the_law() {
    for text in techniques() {
        check_augment(built(text, 3).as_mut(), &images(3));
    }
    check_augment(built(json!({"kind": "additive_noise", "strength": 0.1}), 3).as_mut(), &images(3));
    check_augment(
        built(json!({"kind": "label_dropout", "probability": 0.5, "null": 3}), 3).as_mut(),
        &images(3),
    );
}

#[test]
fn at_strength_0_an_augmentation_is_absent() {
    let later = json!({"kind": "linear", "from": 0.0, "to": 1.0, "start": 0.5});
    for zero in [json!(0.0), later] {
        for mut text in techniques() {
            text["probability"] = zero.clone();
            check_absent_augment(built(text, 3).as_mut(), &images(3));
        }
        let noise = json!({"kind": "additive_noise", "strength": zero});
        check_absent_augment(built(noise, 3).as_mut(), &images(3));
        let dropout = json!({"kind": "label_dropout", "probability": zero, "null": 3});
        check_absent_augment(built(dropout, 3).as_mut(), &images(3));
    }
}

#[test]
fn rows_that_are_not_picked_stay_and_the_others_do_not() {
    let batch = copies(200, 3);
    for mut text in techniques() {
        let kind = text["kind"].to_string();
        if ["\"mixup\"", "\"non_leaky\""].contains(&kind.as_str()) {
            continue; // A copy mixed with a copy is the copy; flips are of another probability.
        }
        text["probability"] = json!(0.5);
        let stay = run(text, &batch).x_start.eq_tensor(&batch.x_start).flatten(1, -1).all_dim(1, false);
        let share = stay.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((0.4..0.75).contains(&share), "{kind}: {share} of the rows stay");
    }
}

#[test]
fn fixed_parameters_give_what_torchvision_gives() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "augment");
    let x = golden.get("images");
    let check = |name: &str, got: Tensor| {
        println!("{name}");
        close(&got, &golden.get(name), 1e-5);
    };
    let radians = (floats(&[30.0, -100.0])).deg2rad();
    check("rotate 30 -100", rotate(&x, &radians, Interpolation::Bilinear, Padding::Zeros));
    check("brightness 0.6 1.7", adjust_brightness(&x, &floats(&[0.6, 1.7])));
    check("contrast 0.3 1.8", adjust_contrast(&x, &floats(&[0.3, 1.8])));
    check("contrast of one channel 0.3 1.8", adjust_contrast(&x.narrow(1, 0, 1), &floats(&[0.3, 1.8])));
    check("saturation 0.2 1.9", adjust_saturation(&x, &floats(&[0.2, 1.9])));
    check("hue 0.3 -0.45", adjust_hue(&x, &floats(&[0.3, -0.45])));
    check("blur 0.7 2", gaussian_blur(&x, &floats(&[0.7, 2.0]), 7));
    let boxes = Tensor::from_slice(&[1i64, 2, 4, 3, 5, 0, 3, 2]).view([2, 4]);
    check("erase 1 2 4 3, 5 0 3 2", erase(&x, &boxes, &x.zeros_like()));
    let all = Tensor::from_slice(&[true, true]);
    check("horizontal flip", flip(&x, &all, 3));
    check("vertical flip", flip(&x, &all, 2));
    let (down, right) = (Tensor::from_slice(&[0i64, 6]) - 3, Tensor::from_slice(&[5i64, 2]) - 3);
    check("crop 0 5, 6 2", crop(&x, &down, &right));
}

#[test]
fn crops_are_slices_of_the_padded_image() {
    let x = images(2).x_start;
    let padded = x.reflection_pad2d([3, 3, 3, 3]);
    let shifts = [-3i64, -1, 0, 2, 3, 1];
    let down = Tensor::from_slice(&shifts);
    let cut = crop(&x, &down, &down.neg());
    for (i, shift) in shifts.into_iter().enumerate() {
        let slice = padded.get(i as i64).narrow(1, 3 + shift, 8).narrow(2, 3 - shift, 8);
        assert!(cut.get(i as i64).equal(&slice));
    }
    let moved = run(json!({"kind": "crop", "padding": 2}), &copies(300, 1)).x_start;
    let different = moved.flatten(1, -1).unique_dim(0, true, false, false).0.size()[0];
    assert_eq!(different, 25, "every shift of up to two pixels in two directions");
}

#[test]
fn quarter_turns_are_exact() {
    let x = images(3).x_start;
    for (quarter, interpolation) in
        [(1, Interpolation::Bilinear), (2, Interpolation::Nearest), (3, Interpolation::Bicubic)]
    {
        let radians = Tensor::full([6], quarter as f64 * FRAC_PI_2, (Kind::Float, Device::Cpu));
        close(&rotate(&x, &radians, interpolation, Padding::Reflect), &x.rot90(quarter, [2, 3]), 1e-5);
    }
    let still = Tensor::from_slice(&[1.0f32, 0.0, 0.0, 0.0, 1.0, 0.0]).view([1, 2, 3]).repeat([6, 1, 1]);
    close(&affine(&x, &still, Interpolation::Bicubic, Padding::Border), &x, 1e-5);
}

#[test]
fn half_of_the_images_are_mirrored() {
    let batch = copies(400, 1);
    let flipped = run(json!({"kind": "flip"}), &batch).x_start;
    let of =
        |x: Tensor| flipped.eq_tensor(&x).flatten(1, -1).all_dim(1, false).sum(Kind::Int64).int64_value(&[]);
    let (still, mirrored) = (of(batch.x_start.copy()), of(batch.x_start.flip([3])));
    assert_eq!(still + mirrored, 400);
    assert!((160..240).contains(&mirrored), "{mirrored}");
}

#[test]
fn boxes_have_the_area_and_the_sides_that_were_asked_for() {
    let batch = Batch::new(Tensor::ones([2000, 4, 8, 8], (Kind::Float, Device::Cpu)), Cond::default());
    let gone = |text: Value| run(text, &batch).x_start.eq(0.0).to_kind(Kind::Float);
    let erased = gone(
        json!({"kind": "erasing", "probability": 1.0, "area": [0.25, 0.25], "aspect": [1.0, 1.0], "fill": "zeros"}),
    );
    close(
        &erased.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float),
        &Tensor::full([2000], 0.25, (Kind::Float, Device::Cpu)),
        1e-6,
    );
    let cut =
        gone(json!({"kind": "cutout", "size": 0.5})).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
    assert!(cut.max().double_value(&[]) == 0.25, "a whole square");
    assert!((0.0625..0.15).contains(&cut.min().double_value(&[])), "a square at a corner");
}

#[test]
fn mixup_mixes_vectors_and_leaves_ids_to_the_larger_share() {
    let mut batch = images(1);
    batch.x_start = Tensor::eye(6, (Kind::Float, Device::Cpu)).view([6, 1, 6, 1]);
    let ids = Tensor::arange(6, (Kind::Int64, Device::Cpu));
    batch.cond = Cond::of_labels(ids.shallow_clone());
    batch.index = Some(ids);
    let mixed = run(json!({"kind": "mixup", "alpha": 1.0}), &batch);
    let shares = mixed.x_start.view([6, 6]);
    close(
        &shares.sum_dim_intlist([1i64].as_slice(), false, Kind::Float),
        &Tensor::ones([6], (Kind::Float, Device::Cpu)),
        1e-6,
    );
    assert!(shares.argmax(1, false).equal(&mixed.cond.label.unwrap()));
    assert!(shares.argmax(1, false).equal(&mixed.index.unwrap()));
    assert!(shares.gt(0.0).sum(Kind::Int64).int64_value(&[]) > 6, "nothing was mixed");
    batch.cond = Cond::of_labels(batch.x_start.view([6, 6]));
    let mixed = run(json!({"kind": "mixup", "alpha": 1.0}), &batch);
    assert!(mixed.cond.label.unwrap().equal(&mixed.x_start.view([6, 6])));
}

#[test]
fn mixup_draws_from_the_beta_distribution() {
    let x =
        Tensor::linspace(0.0, 1.0, 2, (Kind::Float, Device::Cpu)).repeat([20_000]).view([40_000, 1, 1, 1]);
    let share = run(json!({"kind": "mixup", "alpha": 0.4}), &Batch::new(x, Cond::default())).x_start;
    // The share of the ones among pairs of unlike images has the variance of Beta(a, a), 1 / (4 (2 a + 1)).
    let unlike = share.masked_select(&share.gt(0.0).logical_and(&share.lt(1.0)));
    close(&unlike.mean(Kind::Float), &Tensor::from(0.5f32), 0.01);
    close(&unlike.var(true), &Tensor::from(1.0 / 7.2f32), 0.004);
}

#[test]
fn dropped_labels_are_null_or_zero() {
    let text = json!({"kind": "label_dropout", "probability": 1.0, "null": 3});
    let batch = images(1);
    assert!(run(text.clone(), &batch).cond.label.unwrap().eq(3).all().int64_value(&[]) == 1);
    let vectors =
        Batch::new(batch.x_start, Cond::of_labels(Tensor::ones([6, 4], (Kind::Float, Device::Cpu))));
    assert!(run(text, &vectors).cond.label.unwrap().eq(0.0).all().int64_value(&[]) == 1);
}

#[test]
fn masks_and_hints_go_where_the_images_go() {
    let mut batch = images(1);
    let mask = batch.x_start.gt(0.0).to_kind(Kind::Float);
    batch.x_start = mask.copy();
    batch.known = Some(Known { loss: mask.copy(), input: mask.copy() });
    // A hint of twice the size, and of three channels.
    batch.cond.hint = Some(
        mask.repeat_interleave_self_int(2, 2, 16).repeat_interleave_self_int(2, 3, 16).repeat([1, 3, 1, 1]),
    );
    for text in [
        json!({"kind": "crop", "padding": 3}),
        json!({"kind": "flip", "vertical": true}),
        json!({"kind": "rotation", "degrees": 90.0}),
        json!({"kind": "non_leaky", "probability": 1.0}),
    ] {
        let moved = run(text.clone(), &batch);
        let known = moved.known.unwrap();
        assert!(!moved.x_start.equal(&batch.x_start));
        assert!(same(&[known.loss, known.input], &[moved.x_start.copy(), moved.x_start.copy()]), "{text}");
        let hint = moved.cond.hint.unwrap();
        let small = hint.narrow(1, 0, 1).avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None);
        let off = (small - moved.x_start).abs().mean(Kind::Float).double_value(&[]);
        let exact = ["crop", "flip"].iter().any(|kind| text["kind"] == *kind);
        assert!(if exact && text["kind"] == "flip" { off == 0.0 } else { off < 0.3 }, "{text}: {off}");
    }
}

#[test]
fn latents_of_any_channels_are_blurred_erased_and_noised() {
    let batch = images(5);
    for text in [
        json!({"kind": "gaussian_blur", "sigma": [1.0, 1.0]}),
        json!({"kind": "erasing", "probability": 1.0, "fill": "gaussian"}),
        json!({"kind": "additive_noise", "strength": 0.5}),
    ] {
        assert!(!run(text, &batch).x_start.equal(&batch.x_start));
    }
    assert!(from_value::<Fill>(json!("uniform")).unwrap() == Fill::Uniform);
    let sharp = gaussian_blur(&batch.x_start, &Tensor::zeros([6], (Kind::Float, Device::Cpu)), 5);
    assert!(sharp.equal(&batch.x_start), "a sigma of 0 is the image itself");
    let many = copies(2000, 1);
    let noise = run(json!({"kind": "additive_noise", "strength": 0.5}), &many).x_start - &many.x_start;
    close(&noise.std(true), &Tensor::from(0.5f32), 0.01);
}

#[test]
fn augmented_batches_are_a_function_of_the_clock() {
    let make = |augments: usize| Augmented {
        inner: Blobs { n: 16, seed: 4 },
        augments: (0..augments)
            .map(|_| built(json!({"kind": "additive_noise", "strength": 0.1}), 2))
            .collect(),
        seed: 4,
        rank: 0,
    };
    check_batch_source(|| Box::new(make(2)));
    let after = |source: &mut dyn BatchSource| {
        let batch = source.batch(CLOCK).unwrap().x_start;
        [batch, Tensor::rand([4], (Kind::Float, Device::Cpu))]
    };
    assert!(
        same(&after(&mut make(0)), &after(&mut Blobs { n: 16, seed: 4 })),
        "an empty list changes something"
    );
    let other = make(1).batch(CLOCK).unwrap().x_start;
    let ranks = Augmented { rank: 1, ..make(1) }.batch(CLOCK).unwrap().x_start;
    assert!(!other.equal(&ranks), "two processes draw the same");
}

#[test]
fn what_does_not_fit_names_the_field() {
    let fails = |text: Value, channels: i64, field: &str| {
        let technique: AugmentTechnique = from_value(text).unwrap();
        let message = technique.build([channels, 8, 8]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
    };
    for mut text in techniques() {
        text["probability"] = json!(1.5);
        fails(text, 3, "probability");
    }
    fails(json!({"kind": "additive_noise", "strength": -1.0}), 1, "strength");
    fails(json!({"kind": "color_jitter", "saturation": 0.1}), 1, "saturation");
    fails(json!({"kind": "color_jitter", "hue": 0.1}), 1, "hue");
    fails(json!({"kind": "color_jitter", "hue": 0.6}), 3, "hue");
    fails(json!({"kind": "color_jitter", "contrast": 0.1}), 4, "contrast");
    fails(json!({"kind": "crop", "padding": 8}), 1, "padding");
    fails(json!({"kind": "crop", "padding": 0}), 1, "padding");
    fails(json!({"kind": "cutout", "size": 1.1}), 1, "size");
    fails(json!({"kind": "erasing", "probability": 1.0, "area": [0.5, 0.1]}), 1, "area");
    fails(json!({"kind": "erasing", "probability": 1.0, "aspect": [0.0, 1.0]}), 1, "aspect");
    fails(json!({"kind": "flip", "horizontal": false}), 1, "horizontal");
    fails(json!({"kind": "gaussian_blur", "sigma": [0.5, 9.0]}), 1, "kernel");
    fails(json!({"kind": "gaussian_blur", "sigma": [0.5, 1.0], "kernel": 4}), 1, "kernel");
    fails(json!({"kind": "label_dropout", "probability": 0.1, "null": -1}), 1, "null");
    fails(json!({"kind": "mixup", "alpha": 0.0}), 1, "alpha");
    fails(json!({"kind": "non_leaky", "rotation": -1.0}), 1, "rotation");
    fails(json!({"kind": "rotation", "degrees": 181.0}), 1, "degrees");
    assert!(from_value::<AugmentTechnique>(json!({"kind": "flip", "diagonal": true})).is_err());
}
