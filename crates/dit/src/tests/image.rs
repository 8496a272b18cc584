//! Laws of the image transformer.

use super::{F32, fresh, images, input, levels, random, randomise, tiny};
use crate::{DitConfig, EmbedderPlace};
use heldout_core::{Backbone, Cond, Input, Params, Recorder, Site};
use heldout_nn::TimeAttention;
use heldout_testkit::{check_backbone, close};
use tch::{Kind, Tensor};

fn labels(ids: &[i64]) -> Cond {
    Cond::of_labels(Tensor::from_slice(ids))
}

/// The options that differ from the paper, all on.
fn all_modern() -> DitConfig {
    DitConfig { time_attention: TimeAttention::All, dropout: 0.1, ..tiny().modern() }
}

#[test]
fn it_keeps_the_laws_of_a_backbone() {
    for config in [tiny(), tiny().modern(), all_modern(), DitConfig { num_classes: 0, ..tiny() }] {
        let (_vars, dit) = random(&config);
        let cond = if config.num_classes > 0 { labels(&[0, 4, 5, 2]) } else { Cond::default() };
        check_backbone(&dit, &images(4, 8, 12), &cond);
    }
}

/// adaLN-Zero: nothing is added to the tokens, and nothing comes out.
#[test]
fn at_the_start_every_block_is_the_identity_and_the_output_zero() {
    let each_block = DitConfig { embedders: EmbedderPlace::EachBlock, ..tiny() };
    for config in [tiny(), tiny().modern(), each_block] {
        let (vars, dit) = fresh(&config);
        let (x, level, cond) = (images(2, 8, 8), levels(2), labels(&[0, 4]));
        let mut recorder = Recorder { wanted: (0..3).map(Site::Block).collect(), seen: Vec::new() };
        let out = dit.forward(Input { train: true, ..input(&x, &level, &cond) }, &mut recorder);
        assert_eq!(out.abs().max().double_value(&[]), 0.0);
        let (tokens, _) = dit.trunk.pos_embed.forward(&x);
        assert_eq!(recorder.seen.len(), 3);
        assert!(recorder.seen.iter().all(|(_, h)| h.equal(&tokens)), "a block is not the identity");
        // It learns all the same: every parameter has its gradient.
        (out - 1.0).square().sum(Kind::Float).backward();
        assert_eq!(Params::of(&vars).grads().count(), Params::of(&vars).tensors().count());
    }
}

#[test]
fn no_label_is_the_null_class() {
    let (_vars, dit) = random(&tiny());
    let (x, level) = (images(3, 8, 8), levels(3));
    let of = |cond: &Cond| dit.forward(input(&x, &level, cond), &mut ());
    assert!(of(&Cond::default()).equal(&of(&labels(&[5, 5, 5]))));
    assert!(!of(&Cond::default()).equal(&of(&labels(&[5, 5, 1]))));
}

#[test]
fn classes_are_dropped_in_training_alone_and_by_the_seed() {
    let (_vars, dit) = random(&DitConfig { label_dropout: 0.5, ..tiny() });
    let (x, level) = (images(16, 4, 4), levels(16));
    let cond = labels(&[1; 16]);
    let train = |seed| {
        tch::manual_seed(seed);
        dit.forward(Input { train: true, ..input(&x, &level, &cond) }, &mut ())
    };
    let eval = |cond: &Cond| dit.forward(input(&x, &level, cond), &mut ());
    assert!(eval(&cond).equal(&eval(&cond)), "evaluation is not the same twice");
    assert!(train(3).equal(&train(3)) && !train(3).equal(&train(4)));
    let (trained, with, without) = (train(3), eval(&cond), eval(&Cond::default()));
    let mut dropped = 0;
    for i in 0..16 {
        let is = |other: &Tensor| (trained.get(i) - other.get(i)).abs().max().double_value(&[]) < 1e-5;
        assert!(is(&with) != is(&without), "row {i} is neither with its class nor without");
        dropped += i64::from(is(&without));
    }
    assert!((3..14).contains(&dropped), "{dropped} of 16 were dropped");
}

#[test]
fn dropout_is_for_training_alone() {
    let (_vars, dit) = random(&DitConfig { dropout: 0.5, label_dropout: 0.0, ..tiny() });
    let (x, level, cond) = (images(2, 8, 8), levels(2), labels(&[0, 1]));
    let of = |train| dit.forward(Input { train, ..input(&x, &level, &cond) }, &mut ());
    assert!(of(false).equal(&of(false)));
    assert!(!of(true).equal(&of(false)));
}

/// Without patches' own weights the tokens are the places: column first, row second, stretched to the size that the network
/// was made for.
#[test]
fn tokens_know_their_places() {
    let (vars, dit) = fresh(&tiny());
    tch::no_grad(|| {
        let _ = vars.variables()["pos_embed.proj.weight"].shallow_clone().zero_();
    });
    for (height, width) in [(8, 8), (4, 12), (12, 4)] {
        let (tokens, _) = dit.trunk.pos_embed.forward(&images(1, height, width));
        let (rows, columns) = (height / 2, width / 2);
        assert_eq!(tokens.size(), [1, rows * columns, 32]);
        for y in 0..rows {
            for x in 0..columns {
                // A base of 4 patches a side, and 16 channels each for column and row: 8 sines and 8 cosines.
                let places = [x as f64 * 4.0 / columns as f64, y as f64 * 4.0 / rows as f64];
                for c in 0..32 {
                    let (place, in_half) = (places[(c / 16) as usize], c % 16);
                    let angle = place * 10_000f64.powf(-((in_half % 8) as f64) / 8.0);
                    let wanted = if in_half < 8 { angle.sin() } else { angle.cos() };
                    let got = tokens.double_value(&[0, y * columns + x, c]);
                    assert!((got - wanted).abs() < 1e-5, "({y}, {x}) channel {c}: {got} against {wanted}");
                }
            }
        }
    }
}

/// As long as all blocks are the identity, a patch of the output sees its own patch of the input: the way to tokens and
/// back keeps rows and columns, of images that are not square too.
#[test]
fn a_patch_comes_back_where_it_was() {
    let (vars, dit) = fresh(&tiny());
    tch::no_grad(|| {
        for name in ["proj_out_1.weight", "proj_out_2.weight", "proj_out_2.bias"] {
            let t = vars.variables()[name].shallow_clone();
            t.shallow_clone().copy_(&(t.randn_like() * 0.1));
        }
    });
    let (x, level, cond) = (images(1, 6, 10), levels(1), Cond::default());
    let of = |x: &Tensor| dit.forward(input(x, &level, &cond), &mut ());
    let before = of(&x);
    for (row, column) in [(0, 0), (1, 3), (2, 4)] {
        let changed = x.copy();
        let _ = changed.narrow(2, 2 * row + 1, 1).narrow(3, 2 * column, 1).g_add_scalar_(1.0);
        let difference = (of(&changed) - &before).abs().amax([0i64, 1], false); // [H, W]
        let inside = difference.narrow(0, 2 * row, 2).narrow(1, 2 * column, 2);
        assert!(inside.min().double_value(&[]) > 0.0);
        let elsewhere = difference.sum(Kind::Float) - inside.sum(Kind::Float);
        assert!(elsewhere.double_value(&[]).abs() < 1e-5, "({row}, {column}) comes back elsewhere");
    }
}

/// The numbers of a patch are its rows, their columns, their channels.
#[test]
fn pixels_of_a_patch_are_in_order() {
    let (vars, dit) = fresh(&tiny());
    let bias = Tensor::arange(16, F32);
    tch::no_grad(|| vars.variables()["proj_out_2.bias"].shallow_clone().copy_(&bias));
    let (x, level, cond) = (images(1, 4, 6), levels(1), Cond::default());
    let out = dit.forward(input(&x, &level, &cond), &mut ());
    for y in 0..4i64 {
        for x in 0..6i64 {
            for c in 0..4 {
                let wanted = ((y % 2) * 2 + x % 2) * 4 + c;
                assert_eq!(out.double_value(&[0, c, y, x]), wanted as f64);
            }
        }
    }
}

/// Turned queries and keys tell rows from columns: an image and its transpose are not the same to the network, and an image
/// of one colour is the same at every place.
#[test]
fn rotary_positions_are_in_attention_alone() {
    let (_vars, dit) = random(&tiny().modern());
    let (level, cond) = (levels(1), Cond::default());
    let one_colour = Tensor::full([1, 4, 4, 8], 0.7, F32);
    let out = dit.forward(input(&one_colour, &level, &cond), &mut ());
    close(&out, &out.narrow(2, 0, 2).narrow(3, 0, 2).repeat([1, 1, 2, 4]), 1e-4);
    // Far from a change the same neighbourhood gives the same products, so a shift of the places changes nothing.
    let x = images(1, 8, 8);
    let swapped = x.roll([4], [3]); // Right half and left half.
    let of = |x: &Tensor| dit.forward(input(x, &level, &cond), &mut ());
    assert!(
        (of(&swapped).roll([4], [3]) - of(&x)).abs().max().double_value(&[]) > 1e-4,
        "places do not matter"
    );
}

/// One embedder for all, and the same copied into each block, are one network.
#[test]
fn shared_embedders_are_those_of_each_block() {
    let (shared_vars, shared) = random(&tiny());
    let (vars, each) = fresh(&DitConfig { embedders: EmbedderPlace::EachBlock, ..tiny() });
    let weights = shared_vars.variables();
    tch::no_grad(|| {
        for (name, t) in vars.variables() {
            let source = match name.split_once(".norm1.emb.") {
                Some((_, of)) => of.replace("timestep_embedder", "time_embedder"),
                None => name,
            };
            t.shallow_clone().copy_(&weights[&source]);
        }
    });
    let (x, level, cond) = (images(2, 8, 8), levels(2), labels(&[3, 5]));
    let of = |dit: &crate::Dit| dit.forward(input(&x, &level, &cond), &mut ());
    assert!(of(&shared).equal(&of(&each)));
}

/// Places that were made for one kind of numbers or one size do not stay for another.
#[test]
fn places_follow_the_kind_and_the_size() {
    for config in [tiny(), tiny().modern()] {
        let (mut vars, dit) = random(&config);
        let (x, level, cond) = (images(1, 8, 8), levels(1), Cond::default());
        let of = |x: &Tensor| dit.forward(input(x, &level, &cond), &mut ());
        let before = of(&x);
        let _ = of(&images(1, 4, 8));
        assert!(of(&x).equal(&before));
        vars.bfloat16();
        let out = dit.forward(input(&x.to_kind(Kind::BFloat16), &level, &cond), &mut ());
        assert_eq!(out.kind(), Kind::BFloat16);
    }
}

/// Time in attention that is 0 changes nothing.
#[test]
fn time_in_attention_is_an_addition() {
    let (plain_vars, plain) = random(&tiny());
    let (vars, timed) = fresh(&DitConfig { time_attention: TimeAttention::All, ..tiny() });
    let weights = plain_vars.variables();
    tch::no_grad(|| {
        for (name, t) in vars.variables() {
            let mut t = t.shallow_clone();
            match weights.get(&name) {
                Some(same) => t.copy_(same),
                None => drop(t.zero_()),
            }
        }
    });
    let (x, level, cond) = (images(2, 8, 8), levels(2), labels(&[3, 5]));
    let of = |dit: &crate::Dit| dit.forward(input(&x, &level, &cond), &mut ());
    assert!(of(&plain).equal(&of(&timed)));
    randomise(&vars);
    assert!(!of(&plain).equal(&of(&timed)));
}
