//! Images by their attributes.

use super::datasets;
use crate::{AttributeFilter, Manifest, matching};
use flate2::{Compression, write::GzEncoder};
use std::fs;
use std::io::Write;
use std::path::Path;

fn filter(pairs: &[(&str, &str)]) -> AttributeFilter {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
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
    fails(&faces, &[("nose", "any")], &["filter.nose", "glasses"]);
    fails(&faces, &[("glasses", "round")], &["filter.glasses", "round", "any"]);
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
