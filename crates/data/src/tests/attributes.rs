//! Images by their attributes.

use super::datasets;
use crate::{
    AttributeClasses, AttributeFilter, AttributeTable, Batches, DrawnLabels, ImageSet, LabelConfig, Manifest,
};
use flate2::{Compression, write::GzEncoder};
use heldout_core::{BatchSource, Clock};
use heldout_testkit::check_batch_source;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::rc::Rc;
use tch::Device;

fn filter(pairs: &[(&str, &str)]) -> AttributeFilter {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn matching(folder: &Path, filter: &AttributeFilter) -> heldout_core::Result<Vec<bool>> {
    AttributeTable::read(folder, "filter")?.matching(filter)
}

#[test]
fn attributes_choose_images() {
    let faces = datasets().join("pixel-faces");
    let count =
        |pairs: &[(&str, &str)]| matching(&faces, &filter(pairs)).unwrap().iter().filter(|m| **m).count();
    assert_eq!(count(&[]), 10_000);
    let (with, without) = (count(&[("glasses", "any")]), count(&[("glasses", "")]));
    assert_eq!((with, without), (2011, 7989));
    assert_eq!(count(&[("glasses", "dark01")]), 135);
    // By the beginning of a value: the two kinds are all that are not empty.
    assert_eq!(count(&[("glasses", "dark*")]) + count(&[("glasses", "light*")]), with);
    assert_eq!((count(&[("hair", "long*")]), count(&[("hair", "short*")])), (4639, 5361));
    let both = matching(&faces, &filter(&[("glasses", "any"), ("beard", "any")])).unwrap();
    let [glasses, beard] =
        ["glasses", "beard"].map(|name| matching(&faces, &filter(&[(name, "any")])).unwrap());
    assert!(both.iter().zip(glasses.iter().zip(&beard)).all(|(both, (g, b))| *both == (*g && *b)));
    // The first rows of the table, by eye.
    assert_eq!(glasses[..4], [false, false, true, false]);
    assert_eq!(beard[..4], [false; 4]);
}

#[test]
fn filters_and_tables_that_cannot_be_name_what_is_wrong() {
    let faces = datasets().join("pixel-faces");
    let fails = |folder: &Path, pairs: &[(&str, &str)], words: &[&str]| {
        let error = matching(folder, &filter(pairs)).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    fails(&faces, &[("nose", "any")], &["nose: is none", "glasses"]);
    fails(&faces, &[("glasses", "round")], &["glasses: `round`", "any"]);
    fails(&faces, &[("glasses", "round*")], &["glasses: `round*`"]);
    fails(&datasets().join("digits"), &[("glasses", "any")], &["filter", "digits"]);
    let folder = tempfile::tempdir().unwrap();
    fails(folder.path(), &[("glasses", "any")], &["dataset.toml"]);

    let manifest = Manifest::read(&faces).unwrap();
    let text = fs::read_to_string(faces.join("dataset.toml")).unwrap();
    let start = text.find("[sha256]").unwrap();
    let text = text[..start].replace(&format!("count = {}", manifest.count), "count = 2") + "[sha256]\n";
    fs::write(folder.path().join("dataset.toml"), text).unwrap();
    let table = |text: &str, words: &[&str]| {
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        fs::write(folder.path().join("attributes.csv.gz"), gz.finish().unwrap()).unwrap();
        fails(folder.path(), &[("glasses", "any")], words);
    };
    table("seed,glasses\n0,a\n", &["attributes.csv.gz", "1 rows for 2"]);
    table("seed,glasses\n0,a\n1\n", &["attributes.csv.gz", "line 3", "1 fields"]);
    table("seed,glasses\n0,\"a\"\n1,b\n", &["attributes.csv.gz", "quotes"]);
    table("", &["attributes.csv.gz", "empty"]);
    fs::write(folder.path().join("attributes.csv.gz"), [0x1f, 0x8b, 8, 0]).unwrap();
    fails(folder.path(), &[("glasses", "any")], &["attributes.csv.gz", "damaged"]);
}

/// Two classes of each pair hold for no image, one of each for all.
fn classes() -> LabelConfig {
    toml::from_str(
        "kind = \"attributes\"\nclasses = { glasses = { glasses = \"any\" }, bare = { glasses = \"\" }, \
         long = { hair = \"long*\" }, short = { hair = \"short*\" } }",
    )
    .unwrap()
}

#[test]
fn one_of_the_classes_that_hold_is_told_anew_at_every_step() {
    let config = classes();
    config.check().unwrap();
    assert_eq!(toml::from_str::<LabelConfig>(&toml::to_string(&config).unwrap()).unwrap(), config);
    let LabelConfig::Attributes { classes } = &config else { unreachable!() };
    let faces = datasets().join("pixel-faces");
    let (set, table) =
        (Rc::new(ImageSet::open(&faces).unwrap()), AttributeTable::read(&faces, "labels").unwrap());
    let of = AttributeClasses::new(&table, classes).unwrap();
    assert_eq!(of.names(), ["bare", "glasses", "long", "short"], "in the order of their names");
    let (n, images) = (100, Vec::from_iter(40..140));
    assert_eq!((config.classes(&set, n), config.of(&set, &images)), (Some(4), None));
    let holding = of.of(&images).unwrap();
    let make = |seed| {
        let batches = Batches::new(set.clone(), images.clone(), 20, 0, (0, 1), Device::Cpu).unwrap();
        DrawnLabels::new(batches, holding.clone(), (seed, 0)).unwrap()
    };
    check_batch_source(|| Box::new(make(0)));
    let numbers = |x: Option<tch::Tensor>| Vec::<i64>::try_from(x.unwrap()).unwrap();
    let told = |seed, step| {
        let batch = make(seed).batch(Clock { step, total: 1 }).unwrap();
        (numbers(batch.index), numbers(batch.cond.label))
    };
    // The same images in other words in the next epoch, and with another seed.
    let ((places, labels), (_, other)) = (told(0, 0), told(1, 0));
    assert_ne!(labels, other);
    let mut counts = [[0; 4]; 100];
    let mut source = make(0);
    for step in 0..2000 {
        let batch = source.batch(Clock { step, total: 1 }).unwrap();
        let (index, labels) = (numbers(batch.index), numbers(batch.cond.label));
        index.iter().zip(labels).for_each(|(place, label)| counts[*place as usize][label as usize] += 1);
    }
    for (place, counts) in counts.iter().enumerate() {
        for (class, n) in counts.iter().enumerate() {
            let holds = of.holds(class, images[place]);
            assert_eq!(holds, holding[place].contains(&(class as i64)));
            // 400 draws of two classes have a standard deviation of 10.
            assert!(
                if holds { i32::abs_diff(*n, 200) < 55 } else { *n == 0 },
                "{n} of class {class}, image {place}"
            );
        }
    }
    assert_eq!(places.len(), 20);
}

#[test]
fn images_of_no_class_and_classes_of_nothing_are_told() {
    let faces = datasets().join("pixel-faces");
    let table = AttributeTable::read(&faces, "labels").unwrap();
    let of = |attribute: &str, value: &str| {
        let classes = [("worn".to_owned(), filter(&[(attribute, value)]))].into_iter().collect();
        AttributeClasses::new(&table, &classes)
    };
    let says = |error: heldout_core::Error, words: &[&str]| {
        let error = error.to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    says(of("glasses", "any").unwrap().of(&[0, 1, 2, 3]).unwrap_err(), &["3 of 4 images", "worn"]);
    says(of("nose", "any").unwrap_err(), &["worn.nose", "glasses"]);
    let check = |text: &str| toml::from_str::<LabelConfig>(text).unwrap().check().unwrap_err();
    says(check("kind = \"attributes\"\nclasses = {}"), &["classes: none"]);
    says(check("kind = \"attributes\"\nclasses = { all = {} }"), &["classes.all", "every image"]);
    let set = Rc::new(ImageSet::open(&faces).unwrap());
    let batches = Batches::new(set, vec![0, 1], 2, 0, (0, 1), Device::Cpu).unwrap();
    says(
        DrawnLabels::new(batches, vec![vec![0], vec![]], (0, 0)).unwrap_err(),
        &["training image 1", "no class"],
    );
}
