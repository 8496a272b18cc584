//! Combinations that training leaves out and samples are asked for.

use super::study;
use crate::arm::Arm;
use crate::assemble::{generate, untold};
use crate::compose::{AskedResult, ComposedResult, compose};
use crate::evaluate::{FINAL, save_grid};
use crate::project_root;
use crate::recipe::Recipe;
use heldout_core::{BatchSource, Clock, stream};
use heldout_train::write_atomically;
use std::fs;
use tch::{Device, Tensor};

const FACES: [&str; 11] = [
    "data.name=pixel-faces",
    "data.split={held_out=300,n_train=400,seed=0}",
    "data.labels={kind=\"attributes\",classes={glasses={glasses=\"any\"},bare={glasses=\"\"},\
     long={hair=\"long*\"},short={hair=\"short*\"}}}",
    "model.in_channels=3",
    "model.out_channels=3",
    "model.block_out_channels=[8,8]",
    // A group of one channel would normalise away what a class adds to it.
    "model.norm_num_groups=4",
    "model.num_class_embeds=5",
    "regularization.augment=[{kind=\"label_dropout\",probability=0.1,null=4}]",
    "sample={sampler={kind=\"ddim\",eta=0.0},steps=3,samples=9,batch_size=4}",
    "compose={decoder={steps=2},asked={both={and=[\"glasses\",\"long\"]},\
     either={or=[\"glasses\",\"long\"]},neither={and=[\"bare\"],not=[\"long\"]}}}",
];
const EXCLUDED: &str = "data.exclude=[{glasses=\"any\",hair=\"long*\"}]";

fn recipe(sets: &[&str]) -> anyhow::Result<Recipe> {
    Ok(study(&[&FACES[..], sets].concat())?.arms.remove(1).1)
}

fn open(recipe: &Recipe) -> anyhow::Result<Arm<'_>> {
    Arm::open("arm", 0, recipe, &project_root().join("datasets"), Device::Cpu)
}

/// Whether the images have glasses and long hair.
fn both(arm: &Arm<'_>, images: &[usize]) -> Vec<bool> {
    let classes = arm.classes.as_ref().unwrap();
    let place = |name| classes.names().iter().position(|n| n == name).unwrap();
    images.iter().map(|i| classes.holds(place("glasses"), *i) && classes.holds(place("long"), *i)).collect()
}

#[test]
fn training_leaves_out_what_is_excluded_and_the_held_out_side_keeps_it() {
    let (all, some) = (recipe(&[]).unwrap(), recipe(&[EXCLUDED]).unwrap());
    let (all, some) = (open(&all).unwrap(), open(&some).unwrap());
    assert_eq!(some.split.held_out, all.split.held_out);
    assert!(both(&some, &some.split.held_out).contains(&true));
    let left = all.split.train.iter().zip(both(&all, &all.split.train)).filter(|(_, both)| !both);
    assert_eq!(some.split.train, left.map(|(i, _)| *i).collect::<Vec<_>>(), "the others, in their order");
    assert!(some.split.train.len() < all.split.train.len() && all.excluded.is_empty());
    assert_eq!(some.excluded.len() + some.split.train.len(), all.split.train.len());
    assert!(both(&some, &some.excluded).iter().all(|both| *both));
    assert_eq!(some.multiplicity().len(), some.split.train.len());
    // A model is told one of the classes that hold.
    let batch = some.encoded(some.batches().unwrap()).unwrap().batch(Clock { step: 3, total: 4 }).unwrap();
    let numbers = |x: Option<Tensor>| Vec::<i64>::try_from(x.unwrap()).unwrap();
    let classes = some.classes.as_ref().unwrap();
    for (place, label) in numbers(batch.index).into_iter().zip(numbers(batch.cond.label)) {
        assert!(classes.holds(label as usize, some.split.train[place as usize]));
    }
    assert!(some.train_labels().is_none());
}

/// What an untrained model gives, with the bytes of the pictures and of the result; and the unconditional samples' picture.
fn composed(sets: &[&str]) -> (ComposedResult, Vec<Vec<u8>>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(sets).unwrap();
    let arm = open(&recipe).unwrap();
    let model = arm.parts().unwrap().model;
    let seed = stream(arm.seed, FINAL, 0, 0);
    let plain =
        generate(model.as_ref(), &recipe.sample, (&arm.space, &untold), 0..9, seed, Device::Cpu).unwrap();
    let found = compose(&arm, model.as_ref(), &plain, folder.path()).unwrap().unwrap();
    let result = folder.path().join("result");
    write_atomically(&result, serde_json::to_string(&found).unwrap().as_bytes()).unwrap();
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    let names = ["composed-both.png", "composed-either.png", "composed-neither.png", "result"];
    let files = names.map(read).to_vec();
    save_grid(&plain, &folder.path().join("plain.png")).unwrap();
    (found, files, read("plain.png"))
}

#[test]
fn at_weight_0_nothing_is_asked_for_and_every_run_is_the_same() {
    let (found, files, plain) = composed(&[EXCLUDED, "compose.weight=0.0"]);
    assert!(files[..3].iter().all(|picture| *picture == plain), "the noise and the model are the same");
    let trained: Vec<usize> = found.asked.iter().map(|a| a.n_train).collect();
    assert_eq!((found.asked[0].name.as_str(), trained[0]), ("both", 0));
    assert!(trained[1] > 0 && trained[2] > 0);
    assert!(found.asked.iter().all(|AskedResult { as_asked, unconditional, .. }| as_asked == unconditional));
    assert_eq!(found.asked[2].asked, "bare and not long");
    assert_eq!(found.decoder.len(), 4);
    let (_, asked, _) = composed(&[EXCLUDED, "compose.weight=3.0"]);
    assert!(asked[..3].iter().all(|picture| *picture != plain), "the conditions do something");
    assert_eq!(asked, composed(&[EXCLUDED, "compose.weight=3.0"]).1);
    // All arms have one judge.
    assert_eq!(composed(&["compose.weight=0.0"]).0.decoder, found.decoder);
}

#[test]
fn what_cannot_be_asked_for_is_told() {
    let says = |sets: &[&str], words: &[&str]| {
        let error = recipe(sets).and_then(|recipe| open(&recipe).map(drop)).unwrap_err();
        let error = format!("{error:#}");
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says(
        &["compose.asked.x={and=[\"beard\"]}"],
        &["compose.asked.x.and", "beard", "bare, glasses, long, short"],
    );
    says(&["compose.asked.x={and=[\"long\"],not=[\"long\"]}"], &["compose.asked.x.not", "twice"]);
    says(&["compose.asked.x={or=[\"long\"]}"], &["compose.asked.x.or", "under and"]);
    says(&["compose.asked.x={}"], &["compose.asked.x.and", "nothing"]);
    says(&["compose.asked={}"], &["compose.asked", "nothing"]);
    says(&["compose.asked.a/b={and=[\"long\"]}"], &["compose.asked.a/b", "files"]);
    says(&["compose.weight=-1.0"], &["compose.weight: -1", "not"]);
    says(&["compose.decoder.steps=0"], &["compose.decoder.steps: 0"]);
    says(&["data.labels={kind=\"random\",classes=4,seed=0}"], &["compose.asked", "data.labels"]);
    says(&["sample.labels=train"], &["sample.labels", "compose"]);
    says(
        &[
            "model.num_class_embeds=4",
            "regularization.augment=[{kind=\"label_dropout\",probability=0.1,null=3}]",
        ],
        &["4 classes by attributes", "null class"],
    );
    says(&["data.filter={nose=\"any\"}"], &["data.filter.nose", "glasses"]);
    says(&["data.exclude=[{nose=\"any\"}]"], &["data.exclude[0].nose", "glasses"]);
    says(&["data.exclude=[{}]"], &["data.exclude", "no training image"]);
    says(&["data.exclude=[{glasses=\"any\"},{glasses=\"\"}]"], &["data.exclude", "no training image"]);
    says(
        &[
            "data.labels.classes.x={nose=\"any\"}",
            "model.num_class_embeds=6",
            "regularization.augment=[{kind=\"label_dropout\",probability=0.1,null=5}]",
        ],
        &["data.labels.classes.x.nose"],
    );
    says(
        &[
            "data.labels.classes={glasses={glasses=\"any\"},long={hair=\"long*\"}}",
            "compose.asked={both={and=[\"glasses\",\"long\"]}}",
        ],
        &["data.labels.classes", "images are of none"],
    );
    says(&["data.name=digits", "model.in_channels=1"], &["data.labels", "no table of attributes"]);
}
