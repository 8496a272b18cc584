//! Training sets that were changed for studies of memorisation: other labels, repeated images, other places of the split.

use super::{idx, toy, toy_set};
use crate::{Batches, ImageSet, LabelConfig, RepeatConfig, Split, SplitConfig, check_repeat, multiplicity};
use heldout_core::{Batch, BatchSource, Clock};
use heldout_testkit::check_batch_source;
use std::collections::HashSet;
use std::fs;
use std::rc::Rc;
use tch::Device;

fn config(n_train: usize, skip: usize) -> SplitConfig {
    SplitConfig { held_out: 5, n_train, seed: 0, skip }
}

fn repeat(images: usize, times: usize) -> RepeatConfig {
    RepeatConfig { images, times }
}

fn batch(source: &mut Batches, step: u64) -> Batch {
    source.batch(Clock { step, total: 100 }).unwrap()
}

fn numbers(x: Option<tch::Tensor>) -> Vec<i64> {
    Vec::try_from(x.unwrap()).unwrap()
}

#[test]
fn splits_that_skip_are_disjoint_with_one_held_out_set() {
    let folder = tempfile::tempdir().unwrap();
    let set = toy_set(folder.path(), 30);
    let split = |n_train, skip| Split::new(&set, config(n_train, skip)).unwrap();
    let (a, b) = (split(12, 0), split(12, 12));
    assert_eq!(a.held_out, b.held_out);
    let pixels = |i: &usize| set.image(*i).unwrap();
    let all: HashSet<_> = a.train.iter().chain(&b.train).chain(&a.held_out).map(pixels).collect();
    assert_eq!(all.len(), 29, "a content is in two sets");
    assert_eq!([&a.train[..], &b.train].concat(), split(24, 0).train, "they are halves of one set");
    assert_eq!(split(4, 12).train, b.train[..4], "nested from the same place on");

    let says = |n_train, skip, words: &[&str]| {
        let error = Split::new(&set, config(n_train, skip)).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says(12, 13, &["n_train: 12", "13 skipped", "5 held out", "29 distinct"]);
    says(usize::MAX, usize::MAX, &["29 distinct"]);
    let written = serde_json::to_string(&config(4, 0)).unwrap();
    assert_eq!(
        written, r#"{"held_out":5,"n_train":4,"seed":0}"#,
        "recipes that skip nothing are as they were"
    );
    assert_eq!(serde_json::from_str::<SplitConfig>(&written).unwrap(), config(4, 0));
}

#[test]
fn an_epoch_draws_each_image_as_often_as_it_stands_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let set = Rc::new(toy_set(folder.path(), 30));
    let train = Split::new(&set, config(12, 0)).unwrap().train;
    let times = multiplicity(&[repeat(2, 4), repeat(3, 1), repeat(1, 16)], 12);
    assert_eq!(times, [4, 4, 1, 1, 1, 16, 1, 1, 1, 1, 1, 1]);
    let plain = |rank| Batches::new(set.clone(), train.clone(), 11, 7, rank, Device::Cpu).unwrap();
    let make = |rank| plain(rank).repeated(&times).unwrap();
    check_batch_source(|| Box::new(make((0, 1))));
    // 33 draws an epoch are three batches.
    let mut source = make((0, 1));
    let mut orders = HashSet::new();
    for epoch in 0..4 {
        let mut drawn = [0; 12];
        let mut order = Vec::new();
        for step in 3 * epoch..3 * epoch + 3 {
            let batch = batch(&mut source, step);
            let places = numbers(batch.index);
            let rows: Vec<usize> = places.iter().map(|place| train[*place as usize]).collect();
            assert!(
                batch.x_start.equal(&set.tensor(&rows, Device::Cpu).unwrap()),
                "index is another image's"
            );
            places.iter().for_each(|place| drawn[*place as usize] += 1);
            order.extend(places);
        }
        assert_eq!(drawn[..], times, "epoch {epoch}");
        assert!(orders.insert(order), "two epochs have one order");
    }
    // Two ranks share the draws.
    let (mut even, mut odd) = (make((0, 2)), make((1, 2)));
    let both = [numbers(batch(&mut even, 1).index), numbers(batch(&mut odd, 1).index)].concat();
    let [two, three] = [2, 3].map(|step| numbers(batch(&mut source, step).index));
    assert_eq!(both, [two, three].concat());
    // Once each is as if nothing were said, to the last bit.
    let mut once = plain((0, 1)).repeated(&[1; 12]).unwrap();
    for step in 0..5 {
        let (a, b) = (batch(&mut plain((0, 1)), step), batch(&mut once, step));
        assert!(a.x_start.equal(&b.x_start) && a.index.unwrap().equal(&b.index.unwrap()));
    }
}

#[test]
fn groups_are_nested_and_those_that_cannot_be_are_named() {
    let groups = [repeat(2, 3), repeat(4, 2)];
    for n in 1..9 {
        assert_eq!(multiplicity(&groups, n), multiplicity(&groups, 9)[..n]);
    }
    check_repeat(&groups, 6).unwrap();
    let says = |groups: &[RepeatConfig], n, words: &[&str]| {
        let error = check_repeat(groups, n).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says(&groups, 5, &["repeat[1].images: 4", "6 images", "n_train is 5"]);
    says(&[repeat(0, 3)], 5, &["repeat[0].images: 0", "at least 1"]);
    says(&[repeat(1, 1), repeat(1, 0)], 5, &["repeat[1].times: 0", "at least 1"]);
    says(&[repeat(4, usize::MAX / 2)], 5, &["repeat[0].times", "draws"]);
    says(&[repeat(1, 1), repeat(usize::MAX, 1)], 5, &["repeat[1].images"]);

    let folder = tempfile::tempdir().unwrap();
    let set = Rc::new(toy_set(folder.path(), 30));
    let make = || Batches::new(set.clone(), vec![3, 4, 5], 2, 0, (0, 1), Device::Cpu).unwrap();
    let says = |times: &[usize], words: &[&str]| {
        let error = make().repeated(times).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says(&[2, 2], &["repeat: 2", "training set of 3"]);
    says(&[2, 0, 1], &["repeat: 0 times", "image 1"]);
    says(&[usize::MAX, 2, 1], &["repeat", "draws"]);
    let error = make().labelled(Some(vec![1])).unwrap_err().to_string();
    assert!(error.starts_with("labels: 1 for a training set of 3"), "{error}");
}

fn labelled_set(folder: &std::path::Path) -> ImageSet {
    let images = folder.join("toy-images-idx3-ubyte");
    fs::write(&images, idx(&[30, 4, 4], &toy(30))).unwrap();
    let labels: Vec<u8> = (0..30).map(|i| i % 6).collect();
    fs::write(folder.join("toy-labels-idx1-ubyte"), idx(&[30], &labels)).unwrap();
    ImageSet::open(&images).unwrap()
}

#[test]
fn labels_are_true_absent_random_or_unique() {
    let folder = tempfile::tempdir().unwrap();
    let set = Rc::new(labelled_set(folder.path()));
    let train = Split::new(&set, config(24, 0)).unwrap().train;
    let of = |config: LabelConfig| config.of(&set, &train);
    let random = |classes, seed| LabelConfig::Random { classes, seed };
    let classes = |config: LabelConfig| config.classes(&set, 24);
    let own: Vec<i64> = train.iter().map(|i| (i % 6) as i64).collect();
    assert_eq!((of(LabelConfig::default()), classes(LabelConfig::default())), (Some(own), Some(6)));
    assert_eq!((of(LabelConfig::None {}), classes(LabelConfig::None {})), (None, None));
    assert_eq!(of(LabelConfig::Unique {}), Some((0..24).collect()));
    assert_eq!((classes(LabelConfig::Unique {}), classes(random(4, 0))), (Some(24), Some(4)));

    let drawn = of(random(4, 0)).unwrap();
    assert_eq!(drawn[..8], PINNED, "changing this changes every published result");
    assert_eq!((of(random(4, 0)).unwrap(), of(random(1, 0)).unwrap()), (drawn.clone(), vec![0; 24]));
    assert_ne!(of(random(4, 1)).unwrap(), drawn);
    assert_eq!(random(4, 0).of(&set, &train[..7]).unwrap(), drawn[..7], "nested sets have the same labels");
    // Uniform: 10,000 draws of 4 have a standard deviation of 43 each.
    let many = random(4, 3).of(&set, &vec![0; 10_000]).unwrap();
    for class in 0..4 {
        let n = many.iter().filter(|label| **label == class).count();
        assert!(n.abs_diff(2500) < 200, "{n} of class {class}");
    }
    let error = random(0, 0).check().unwrap_err().to_string();
    assert!(error.starts_with("classes: 0"), "{error}");

    // Batches tell what they are given to tell, and what the set says otherwise.
    let make = || Batches::new(set.clone(), train.clone(), 24, 1, (0, 1), Device::Cpu).unwrap();
    let mut unique = make().labelled(of(LabelConfig::Unique {})).unwrap().repeated(&[2; 24]).unwrap();
    let found = batch(&mut unique, 0);
    assert_eq!(numbers(found.cond.label), numbers(found.index));
    let found = batch(&mut make(), 0);
    let own = numbers(found.index).into_iter().map(|place| (train[place as usize] % 6) as i64);
    assert_eq!(numbers(found.cond.label), own.collect::<Vec<_>>());
    assert!(batch(&mut make().labelled(None).unwrap(), 0).cond.label.is_none());
}
const PINNED: [i64; 8] = [1, 2, 3, 1, 2, 2, 3, 0];

#[test]
fn labels_are_written_by_kind() {
    let read = |text: &str| toml::from_str::<LabelConfig>(text).map_err(|e| e.to_string());
    for (text, config) in [
        ("kind = \"true\"", LabelConfig::True {}),
        ("kind = \"none\"", LabelConfig::None {}),
        ("kind = \"random\"\nclasses = 9\nseed = 2", LabelConfig::Random { classes: 9, seed: 2 }),
        ("kind = \"unique\"", LabelConfig::Unique {}),
    ] {
        assert_eq!(read(text), Ok(config.clone()));
        assert_eq!(read(&toml::to_string(&config).unwrap()), Ok(config));
    }
    for text in ["kind = \"unique\"\nclasses = 3", "kind = \"random\"\nclasses = 3", "kind = \"rand\""] {
        assert!(read(text).is_err(), "{text}");
    }
}
