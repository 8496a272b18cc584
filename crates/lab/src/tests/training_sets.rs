//! Recipes that change the training set: what is drawn and told, and that what is measured stays.

use super::study;
use crate::arm::Arm;
use crate::project_root;
use crate::recipe::{Recipe, Study};
use heldout_core::{BatchSource, Clock};
use heldout_weights::AutoencoderModel;
use serde_json::json;
use tch::{Device, Tensor};

const IMAGES: usize = 24;
const SMALL: [&str; 3] =
    ["data.name=digits", "data.split={held_out=32,n_train=24,seed=0}", "train.batch_size=12"];
/// A transformer that knows a class for each training image.
const KNOWS: &str = "model={kind=\"dit\",in_channels=1,out_channels=1,sample_size=8,patch_size=4,depth=1,\
                     width=16,heads=2,num_classes=24}";

fn recipe(sets: &[&str]) -> anyhow::Result<Recipe> {
    Ok(study(&[&SMALL[..], sets].concat())?.arms.remove(0).1)
}

fn open(recipe: &Recipe) -> anyhow::Result<Arm<'_>> {
    Arm::open("arm", 0, recipe, &project_root().join("datasets"), Device::Cpu)
}

#[track_caller]
fn says(sets: &[&str], words: &[&str]) {
    let error = recipe(sets).and_then(|recipe| open(&recipe).map(drop)).unwrap_err().to_string();
    assert!(words.iter().all(|word| error.contains(word)), "{error}");
}

fn numbers(x: Option<Tensor>) -> Vec<i64> {
    Vec::try_from(x.unwrap()).unwrap()
}

/// Whether a row of `x` is one of `rows`.
fn is_in(x: &Tensor, rows: &Tensor) -> bool {
    (0..rows.size()[0]).any(|i| rows.get(i).equal(x))
}

#[test]
fn recipes_that_change_nothing_are_as_they_were() {
    let data = toml::to_string(&recipe(&[]).unwrap().data).unwrap();
    assert_eq!(data, "name = \"digits\"\n\n[split]\nheld_out = 32\nn_train = 24\nseed = 0\n");
    let changed = ["data.split.skip=3", "data.labels={kind=\"none\"}", "data.repeat=[{images=2,times=3}]"]
        .map(|set| {
            let recipe = recipe(&[set]).unwrap();
            assert_eq!(toml::from_str::<Recipe>(&toml::to_string(&recipe).unwrap()).unwrap(), recipe);
            recipe.fingerprint(0)
        });
    assert!(changed[0] != changed[1] && changed[1] != changed[2] && changed[0] != changed[2]);
}

#[test]
fn classes_are_those_asked_for_on_both_sides() {
    let [all, some] = [&["train.batch_size=2"][..], &["train.batch_size=2", "data.classes=[1,7]"]]
        .map(|sets| recipe(sets).unwrap());
    let (all, some) = (open(&all).unwrap().labels().unwrap(), open(&some).unwrap().labels().unwrap());
    for (all, some) in all.into_iter().zip(some) {
        let kept: Vec<i64> = numbers(Some(all)).into_iter().filter(|label| [1, 7].contains(label)).collect();
        assert!(!kept.is_empty() && numbers(Some(some)) == kept);
    }
    says(&["data.classes=[11]"], &["data.classes", "11", "0 to 9"]);
    says(&["data.name=pixel-faces", "data.classes=[1]"], &["data.classes", "no labels"]);
    says(&["initial_weights={arm=\"large\"}"], &["initial_weights.arm", "`large`", "before"]);
}

#[test]
fn repetition_is_drawn_and_not_measured() {
    let groups = "data.repeat=[{images=8,times=4},{images=4,times=10}]";
    let (plain, repeated) = (recipe(&[]).unwrap(), recipe(&[groups]).unwrap());
    let (plain, arm) = (open(&plain).unwrap(), open(&repeated).unwrap());
    assert!(arm.train.equal(&plain.train) && arm.held_out.equal(&plain.held_out));
    assert!(arm.in_space.train.equal(&plain.in_space.train));
    assert_eq!(plain.multiplicity(), [1; IMAGES]);
    assert_eq!(*arm.multiplicity(), [&[4; 8][..], &[10; 4], &[1; 12]].concat());
    // An epoch of 84 draws is seven batches.
    let mut drawn = [0; IMAGES];
    let mut batches = arm.batches().unwrap();
    for step in 0..7 {
        let batch = batches.batch(Clock { step, total: 7 }).unwrap();
        let index = batch.index.unwrap();
        assert!(batch.x_start.equal(&arm.train.index_select(0, &index)));
        numbers(Some(index)).iter().for_each(|place| drawn[*place as usize] += 1);
    }
    assert_eq!(drawn[..], *arm.multiplicity());
    let mut all = numbers(arm.batch_of(IMAGES).unwrap().index);
    all.sort_unstable();
    assert_eq!(all, (0..IMAGES as i64).collect::<Vec<_>>(), "a diagnosis sees every image once");

    says(&["data.repeat=[{images=8,times=4},{images=17,times=2}]"], &["data.repeat[1].images: 17", "24"]);
    says(&["data.repeat=[{images=8,times=0}]"], &["data.repeat[0].times: 0"]);
    says(&["data.repeat=[{images=8,times=4,of=3}]"], &["data.repeat[0]", "of"]);
}

#[test]
fn a_smoke_test_has_what_is_left_of_the_groups() {
    let groups = "data.repeat=[{images=500,times=2},{images=100,times=4},{images=100,times=9}]";
    let small = study(&["data.split.n_train=1000", groups]).unwrap().smoke().unwrap();
    let again = Study::parse(&small.resolved).unwrap();
    let data = &again.arms[0].1.data;
    assert_eq!(data.repeat.iter().map(|g| (g.images, g.times)).collect::<Vec<_>>(), [(500, 2), (12, 4)]);
    assert_eq!(data.split.n_train, 512);
}

/// Row `i` of cached latents is of image `i % n`, whatever its version: so are its times and its label.
#[test]
fn versions_of_latents_have_the_times_and_the_label_of_their_image() {
    let folder = tempfile::tempdir().unwrap();
    let autoencoder = json!({
        "_class_name": "AutoencoderKL", "in_channels": 1, "out_channels": 1, "latent_channels": 1,
        "block_out_channels": [4, 4], "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"], "norm_num_groups": 4,
        "mid_block_add_attention": false
    });
    tch::manual_seed(0);
    let config = serde_json::from_value(autoencoder).unwrap();
    AutoencoderModel::fresh(config, Device::Cpu).unwrap().save(&folder.path().join("vae")).unwrap();
    let path = folder.path().display();
    let latent = format!(
        "latent={{autoencoder=\"{path}/vae\",cache=\"{path}\",copies=3,\
         augment=[{{kind=\"flip\",probability=0.0}}]}}"
    );
    let sets = [KNOWS, &latent, "data.labels={kind=\"unique\"}", "data.repeat=[{images=6,times=3}]"];
    let recipe = recipe(&[&sets[..], &["model.sample_size=4", "model.patch_size=2"]].concat()).unwrap();
    let arm = open(&recipe).unwrap();
    // Three versions of 6 images three times and of 18 once: 108 draws, nine batches of 12.
    let mut drawn = [0; 3 * IMAGES];
    let mut batches = arm.batches().unwrap();
    for step in 0..9 {
        let batch = batches.batch(Clock { step, total: 9 }).unwrap();
        let index = batch.index.unwrap();
        let image = index.remainder(IMAGES as i64);
        assert!(batch.cond.label.unwrap().equal(&image));
        assert!(batch.x_start.allclose(&arm.in_space.train.index_select(0, &image), 1e-4, 1e-5, false));
        numbers(Some(index)).iter().for_each(|place| drawn[*place as usize] += 1);
    }
    assert_eq!(drawn[..], arm.multiplicity().repeat(3));
}

#[test]
fn a_filter_leaves_images_their_times() {
    let faces = ["data.name=pixel-faces", "model.in_channels=3", "model.out_channels=3"];
    let of = |more: &[&str]| recipe(&[&faces[..], &["data.split.n_train=200"], more].concat()).unwrap();
    let glasses = "data.filter={glasses=\"any\"}";
    let (all, some) = (of(&[]), of(&[glasses, "data.repeat=[{images=60,times=3}]"]));
    let (all, some) = (open(&all).unwrap(), open(&some).unwrap());
    let times = some.multiplicity();
    assert_eq!(times.len() as i64, some.train.size()[0]);
    let grouped = all.train.narrow(0, 0, 60);
    for (i, n) in times.iter().enumerate() {
        let expected = if is_in(&some.train.get(i as i64), &grouped) { 3 } else { 1 };
        assert_eq!(*n, expected, "image {i}");
    }
    assert!(times.contains(&3) && times.contains(&1));
    // One of these has no glasses.
    let single = format!("data.repeat=[{}]", ["{images=1,times=2}"; 8].join(","));
    says(&[&faces[..], &[glasses, &single]].concat(), &["data.repeat[", "data.filter leaves none"]);
}

#[test]
fn labels_are_told_as_the_recipe_says() {
    let first = |sets: &[&str]| {
        let recipe = recipe(sets).unwrap();
        let arm = open(&recipe).unwrap();
        arm.batches().unwrap().batch(Clock { step: 0, total: 1 }).unwrap()
    };
    let unique = first(&[KNOWS, "data.labels={kind=\"unique\"}"]);
    assert_eq!(numbers(unique.cond.label), numbers(unique.index));
    let random = |seed| first(&[KNOWS, &format!("data.labels={{kind=\"random\",classes=5,seed={seed}}}")]);
    let labels = numbers(random(0).cond.label);
    assert!(labels.iter().all(|label| (0..5).contains(label)), "{labels:?}");
    assert_eq!(labels, numbers(random(0).cond.label));
    assert_ne!(labels, numbers(random(1).cond.label));
    let truth = first(&[KNOWS]);
    assert!(first(&["data.labels={kind=\"none\"}"]).cond.label.is_none() && truth.cond.label.is_some());
    assert!(truth.x_start.equal(&unique.x_start), "the images are the same");
    // What is measured by class is measured by the true one.
    let (plain, told) =
        (recipe(&[KNOWS]).unwrap(), recipe(&[KNOWS, "data.labels={kind=\"unique\"}"]).unwrap());
    let of = |recipe: &Recipe| open(recipe).unwrap().labels().unwrap();
    assert_eq!(of(&plain), of(&told));
}

#[test]
fn labels_and_models_that_do_not_fit_are_told() {
    let unique = "data.labels={kind=\"unique\"}";
    let random = |classes: usize| format!("data.labels={{kind=\"random\",classes={classes},seed=0}}");
    says(&[KNOWS, "data.labels={kind=\"none\"}"], &["data.labels.kind: none", "24 classes", "num_classes"]);
    says(&[unique], &["data.labels.kind: unique", "no classes", "24"]);
    says(&[&random(7)], &["data.labels.kind: random", "no classes", "7"]);
    says(&[KNOWS, unique, "data.split.n_train=25"], &["model.num_classes: 24", "25 unique labels"]);
    says(&[KNOWS, &random(25)], &["model.num_classes: 24", "25 random labels"]);
    says(&[KNOWS, &random(0)], &["data.labels.classes: 0"]);
    says(&["data.labels={kind=\"unique\",classes=3}"], &["data.labels", "classes"]);
    says(&["data.labels=true"], &["data.labels"]);
    // The null class is none of the labels.
    let null = "regularization.augment=[{kind=\"label_dropout\",probability=0.1,null=23}]";
    says(&[KNOWS, unique, null], &["model.num_classes: 24", "24 unique labels", "23, the null class"]);
    let filtered = ["data.name=pixel-faces", "data.filter={glasses=\"any\"}", "data.split.n_train=400"];
    let wide = KNOWS.replace("_channels=1", "_channels=3").replace("sample_size=8", "sample_size=16");
    says(&[&filtered[..], &[&wide, unique]].concat(), &["model.num_classes: 24", "unique labels"]);
}

#[test]
fn arms_that_skip_train_on_other_images_and_share_the_held_out_ones() {
    let (first, second) = (recipe(&[]).unwrap(), recipe(&["data.split.skip=24"]).unwrap());
    let both = recipe(&["data.split.n_train=48"]).unwrap();
    let (first, second, both) = (open(&first).unwrap(), open(&second).unwrap(), open(&both).unwrap());
    assert!(first.held_out.equal(&second.held_out));
    assert!(both.train.equal(&Tensor::cat(&[&first.train, &second.train], 0)));
    assert!((0..24).all(|i| !is_in(&second.train.get(i), &Tensor::cat(&[&first.train, &first.held_out], 0))));
    says(&["data.split.skip=1745"], &["data.split.n_train: 24", "1745 skipped", "32 held out", "1797"]);
}
