//! Training sets that were changed for studies of memorisation.

use super::latent::{LATENT, place_with_autoencoder};
use super::{Place, TINY, json};
use std::collections::HashSet;
use std::fs;

const FEW: [&str; 4] = ["--set", "data.split.n_train=16", "--set", "train.steps=4"];
const REPEATED: [&str; 2] = ["--set", "data.repeat=[{images=4,times=8},{images=4,times=2}]"];
/// A class for each of 16 training images, and one that stands for none.
const CLASSES: [&str; 4] = [
    "--set",
    "model.num_class_embeds=17",
    "--set",
    "regularization.augment=[{kind=\"label_dropout\",probability=0.1,null=16}]",
];
const UNIQUE: [&str; 2] = ["--set", "data.labels={kind=\"unique\"}"];

fn train(place: &Place, out: &str, sets: &[&[&str]]) -> Vec<u8> {
    place.succeed(&[&["train", "tiny.toml", "--out", out], &FEW[..], &sets.concat()].concat());
    fs::read(place.path(out).join("arms/base-seed0/final.safetensors")).unwrap()
}

/// Arms that differ in their training sets alone.
const ARMS: &str = r#"
arms.plain = {}
arms.none.data.labels = { kind = "none" }
arms.repeated.data.repeat = [{ images = 4, times = 8 }, { images = 4, times = 2 }]
arms.skipped.data.split.skip = 16
arms.true = { CLASSES }
arms.random = { CLASSES, data.labels = { kind = "random", classes = 4, seed = 1 } }
arms.unique = { CLASSES, data.labels = { kind = "unique" } }
"#;

#[test]
fn labels_repetition_and_places_are_trained_on() {
    let place = Place::new();
    let null = "{ kind = \"label_dropout\", probability = 0.1, null = 16 }";
    let classes = format!("model.num_class_embeds = 17, regularization.augment = [{null}]");
    let arms = TINY.lines().find(|line| line.starts_with("arms = ")).unwrap();
    fs::write(place.path("sets.toml"), TINY.replace(arms, &ARMS.replace("CLASSES", &classes))).unwrap();
    place.succeed(&[&["experiment", "sets.toml", "--out", "run"], &FEW[..]].concat());
    let arm = |name: &str| place.path("run/arms").join(format!("{name}-seed0"));
    let samples = |name: &str| fs::read(arm(name).join("final.safetensors")).unwrap();
    // A model without classes knows no labels, whether it is told them or not.
    assert_eq!(samples("none"), samples("plain"));
    let different = ["plain", "repeated", "skipped", "true", "random", "unique"].map(samples);
    assert_eq!(different.iter().collect::<HashSet<_>>().len(), 6);
    // Beside images that stand there several times, even a copy would be as near to two of them.
    let result = json(&arm("repeated").join("arm.json"));
    assert_eq!((result["n_train"].as_u64(), result["f_mem_copier"].as_f64()), (Some(16), Some(1.0)));
    place.fail(
        &[&["train", "tiny.toml", "--out", "out"], &CLASSES[..], &UNIQUE].concat(),
        2,
        &["model.num_classes: 17", "500 unique labels"],
    );
}

/// Latents that are read from disk and those that are encoded anew give one run, repeated and labelled.
#[test]
fn latents_follow_the_changes_of_their_images() {
    let place = place_with_autoencoder();
    let changed: [&[&str]; 4] = [&LATENT, &REPEATED, &CLASSES, &UNIQUE];
    let cache = ["--set", "latent.cache=\"latents\""];
    let cached = train(&place, "cached", &[&changed[..], &[&cache]].concat());
    let anew = ["--set", "latent.cached=false"];
    assert_eq!(cached, train(&place, "anew", &[&changed[..], &[&anew]].concat()));
    // Other images of the same split stand beside them.
    train(&place, "skipped", &[&LATENT, &cache, &["--set", "data.split.skip=16"]]);
    for name in ["train-16", "train-from-16-16", "held-out-64"] {
        assert!(place.path("latents").join(name).is_dir(), "{name}");
    }
}
