//! Formats, every kind of damage, and the laws of splits and batches.

mod arrays;
mod attributes;
mod captions;
mod clips;
mod latents;
mod streams;
mod training_sets;

use crate::batches::permutation;
use crate::{Batches, ImageSet, Split, SplitConfig, Summary, find, shipped, to_bytes, to_unit_range};
use flate2::{Compression, write::GzEncoder};
use heldout_core::{BatchSource, Clock};
use heldout_testkit::check_batch_source;
use image::{GrayImage, Rgb, RgbImage, Rgba, RgbaImage};
use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tch::{Device, Tensor};

fn datasets() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets")
}

fn idx(dims: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, dims.len() as u8];
    dims.iter().for_each(|d| file.extend(d.to_be_bytes()));
    file.extend(bytes);
    file
}

fn gz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// `n` grey 4x4 images, image `i` a function of `i`, except that the last repeats the first.
fn toy(n: usize) -> Vec<u8> {
    let image = |i: usize| (0..16).map(move |p| ((i * 37 + p * (i + 3)) % 251) as u8);
    (0..n).flat_map(|i| image(if i + 1 == n { 0 } else { i })).collect()
}

fn toy_set(folder: &Path, n: usize) -> ImageSet {
    let path = folder.join("toy-images-idx3-ubyte");
    fs::write(&path, idx(&[n as u32, 4, 4], &toy(n))).unwrap();
    ImageSet::open(&path).unwrap()
}

#[test]
fn idx_is_read_plain_and_gzipped_with_labels_beside() {
    let folder = tempfile::tempdir().unwrap();
    let pixels: Vec<u8> = (0..24).collect();
    let plain = folder.path().join("t-images-idx3-ubyte");
    fs::write(&plain, idx(&[2, 3, 4], &pixels)).unwrap();
    fs::write(folder.path().join("t-labels-idx1-ubyte"), idx(&[2], &[7, 9])).unwrap();
    let set = ImageSet::open(&plain).unwrap();
    assert_eq!((set.len(), set.shape, set.labels.as_deref()), (2, [1, 3, 4], Some(&[7, 9][..])));
    assert_eq!(set.image(1).unwrap(), pixels[12..]);

    let rgb = folder.path().join("rgb.idx.gz");
    fs::write(&rgb, gz(&idx(&[1, 2, 2, 3], &pixels[..12]))).unwrap();
    let set = ImageSet::open(&rgb).unwrap();
    assert_eq!(set.image(0).unwrap(), [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]); // planar
    assert_eq!(set.tensor(&[0], Device::Cpu).unwrap().size(), [1, 3, 2, 2]);
}

#[test]
fn damaged_idx_files_are_named() {
    let good = idx(&[2, 3, 4], &[5; 24]);
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("short", good[..good.len() - 1].to_vec(), "truncated"),
        ("long", [good.clone(), vec![0]].concat(), "more are there"),
        ("header", good[..6].to_vec(), "truncated"),
        ("empty", Vec::new(), "too short"),
        ("text", b"hello world".to_vec(), "not an IDX file"),
        (
            "floats",
            idx(&[1], &[]).iter().enumerate().map(|(i, b)| if i == 2 { 0x0d } else { *b }).collect(),
            "0x0d",
        ),
        ("huge", idx(&[u32::MAX, u32::MAX, u32::MAX], &[]), "too large"),
        ("gz", gz(&good)[..20].to_vec(), "truncated"),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes, expected) in cases {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = ImageSet::open(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(expected) && !error.contains('\n'), "{name}: {error}");
    }
    let error = ImageSet::open(&folder.path().join("absent")).unwrap_err().to_string();
    assert!(error.contains("absent"), "{error}");
}

fn save(path: &Path, value: u8) {
    GrayImage::from_fn(4, 3, |x, y| image::Luma([value + (x + 4 * y) as u8])).save(path).unwrap();
}

#[test]
fn folders_of_images_are_read_with_their_classes() {
    let folder = tempfile::tempdir().unwrap();
    for (class, value) in [("b", 100), ("a", 50)] {
        fs::create_dir(folder.path().join(class)).unwrap();
        save(&folder.path().join(class).join("1.png"), value);
        save(&folder.path().join(class).join("0.png"), value + 1);
        fs::write(folder.path().join(class).join("notes.txt"), "not an image").unwrap();
    }
    let set = ImageSet::open(folder.path()).unwrap();
    assert_eq!(
        (set.len(), set.shape, set.classes.as_slice()),
        (4, [1, 3, 4], &["a".to_owned(), "b".to_owned()][..])
    );
    assert_eq!(set.labels.as_deref(), Some(&[0, 0, 1, 1][..]));
    assert_eq!(set.image(0).unwrap(), (51..63).collect::<Vec<u8>>());
    let summary = Summary::of(&set).unwrap();
    assert_eq!(summary.classes, [("a".to_owned(), 2), ("b".to_owned(), 2)]);
    assert_eq!(summary.duplicates, 0);
}

#[test]
fn one_colour_image_makes_the_folder_rgb() {
    let folder = tempfile::tempdir().unwrap();
    save(&folder.path().join("grey.png"), 10);
    RgbImage::from_pixel(4, 3, Rgb([1, 2, 3])).save(folder.path().join("rgb.png")).unwrap();
    RgbaImage::from_pixel(4, 3, Rgba([1, 2, 3, 255])).save(folder.path().join("opaque.png")).unwrap();
    let set = ImageSet::open(folder.path()).unwrap();
    assert_eq!(set.shape, [3, 3, 4]);
    assert_eq!(set.image(2).unwrap(), [[1; 12], [2; 12], [3; 12]].concat());
    assert_eq!(set.image(1).unwrap(), set.image(2).unwrap());
}

#[test]
fn bad_folders_are_named() {
    let check = |make: &dyn Fn(&Path), expected: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        make(folder.path());
        let opened = ImageSet::open(folder.path());
        let error = opened.and_then(|s| s.bytes(&[0])).unwrap_err().to_string();
        assert!(expected.iter().all(|e| error.contains(e)) && !error.contains('\n'), "{error}");
    };
    check(&|_| (), &["holds no PNG or JPEG"]);
    let two_sizes = |f: &Path| {
        save(&f.join("a.png"), 1);
        GrayImage::new(5, 3).save(f.join("b.png")).unwrap();
    };
    check(&two_sizes, &["b.png", "5x3", "4x3"]);
    let truncated = |f: &Path| {
        save(&f.join("a.png"), 1);
        let bytes = fs::read(f.join("a.png")).unwrap();
        fs::write(f.join("a.png"), &bytes[..bytes.len() - 20]).unwrap();
    };
    check(&truncated, &["a.png", "truncated"]);
    check(&|f| fs::write(f.join("a.png"), "text").unwrap(), &["a.png", "not an image"]);
    check(&|f| RgbaImage::new(4, 3).save(f.join("a.png")).unwrap(), &["a.png", "transparent"]);
    let deep = |f: &Path| {
        let pixels = image::ImageBuffer::<image::Luma<u16>, _>::new(4, 3);
        image::DynamicImage::ImageLuma16(pixels).save(f.join("a.png")).unwrap();
    };
    check(&deep, &["a.png", "16 bits"]);
    let mixed = |f: &Path| {
        save(&f.join("a.png"), 1);
        fs::create_dir(f.join("class")).unwrap();
    };
    check(&mixed, &["both images and subfolders"]);
}

#[test]
fn a_folder_and_an_idx_file_of_the_same_pixels_split_alike() {
    let folder = tempfile::tempdir().unwrap();
    let n = 30;
    let set = toy_set(folder.path(), n);
    let images = folder.path().join("png");
    fs::create_dir(&images).unwrap();
    for (i, pixels) in toy(n).chunks(16).enumerate() {
        // Named so that the order of the files is not that of the IDX file.
        GrayImage::from_raw(4, 4, pixels.to_vec())
            .unwrap()
            .save(images.join(format!("{:02}.png", (i * 7) % n)))
            .unwrap();
    }
    let other = ImageSet::open(&images).unwrap();
    let config = SplitConfig { held_out: 8, n_train: 20, seed: 3, skip: 0 };
    let pixels = |set: &ImageSet, indices: &[usize]| {
        indices.iter().map(|i| set.image(*i).unwrap()).collect::<Vec<_>>()
    };
    let (a, b) = (Split::new(&set, config).unwrap(), Split::new(&other, config).unwrap());
    assert_eq!(pixels(&set, &a.train), pixels(&other, &b.train));
    assert_eq!(pixels(&set, &a.held_out), pixels(&other, &b.held_out));
    assert_eq!((a.duplicates, b.duplicates), (1, 1));
}

#[test]
fn splits_are_nested_apart_and_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let set = toy_set(folder.path(), 30);
    let split =
        |n_train, seed| Split::new(&set, SplitConfig { held_out: 5, n_train, seed, skip: 0 }).unwrap();
    let (small, large) = (split(4, 0), split(24, 0));
    assert_eq!(small.train, large.train[..4]);
    assert_eq!(small.held_out, large.held_out);
    let all: HashSet<Vec<u8>> =
        large.train.iter().chain(&large.held_out).map(|i| set.image(*i).unwrap()).collect();
    assert_eq!(all.len(), 29, "a content is there twice");
    assert_ne!(split(4, 1).train, small.train);
    assert_eq!(small.train, PINNED, "changing the split changes every published result");
    let error =
        Split::new(&set, SplitConfig { held_out: 5, n_train: 25, seed: 0, skip: 0 }).unwrap_err().to_string();
    assert!(error.starts_with("n_train: 25") && error.contains("29 distinct"), "{error}");
}
const PINNED: [usize; 4] = [4, 15, 3, 2];

#[test]
fn batches_are_a_function_of_seed_and_step() {
    let folder = tempfile::tempdir().unwrap();
    let set = Rc::new(toy_set(folder.path(), 30));
    let make = |rank| Batches::new(set.clone(), (0..20).collect(), 8, 1, rank, Device::Cpu).unwrap();
    check_batch_source(|| Box::new(make((0, 1))));
    // Five steps of 8 are two epochs of 20: every image twice, once in each half.
    let bytes = |b: &Tensor| Vec::<u8>::try_from(to_bytes(b).flatten(0, -1)).unwrap();
    let mut source = make((0, 1));
    let all: Vec<u8> =
        (0..5).flat_map(|step| bytes(&source.batch(Clock { step, total: 5 }).unwrap().x_start)).collect();
    for epoch in all.chunks(20 * 16) {
        assert_eq!(epoch.chunks(16).collect::<HashSet<_>>().len(), 20);
    }
    // Two ranks together walk the same sequence.
    let (mut even, mut odd) = (make((0, 2)), make((1, 2)));
    let clock = Clock { step: 0, total: 5 };
    let both =
        [bytes(&even.batch(clock).unwrap().x_start), bytes(&odd.batch(clock).unwrap().x_start)].concat();
    assert_eq!(both, all[..2 * 8 * 16]);
    let error = Batches::new(set.clone(), vec![0, 1], 3, 0, (0, 1), Device::Cpu).unwrap_err().to_string();
    assert!(error.starts_with("batch_size: 3 for a training set of 2"), "{error}");
}

#[test]
fn the_permutation_is_pinned() {
    assert_eq!(permutation(8, 42), ORDER, "changing this changes every published result");
}
const ORDER: [usize; 8] = [4, 7, 0, 1, 3, 2, 6, 5];

#[test]
fn bytes_survive_the_way_to_floats_and_back() {
    let bytes = Tensor::arange(256, (tch::Kind::Uint8, Device::Cpu));
    let x = to_unit_range(&bytes);
    assert!(to_bytes(&x).equal(&bytes));
    assert_eq!((x.double_value(&[0]), x.double_value(&[255])), (-1.0, 1.0));
    assert!(to_bytes(&Tensor::from_slice(&[-3.0f32, 7.0])).equal(&Tensor::from_slice(&[0u8, 255])));
}

#[test]
fn the_shipped_sets_are_what_they_say() {
    assert_eq!(shipped(&datasets()), ["digits", "fashion-mnist-16", "moving-digits", "pixel-faces"]);
    let mut bytes = 0;
    for (name, count, shape) in [
        ("digits", 1797, [1, 8, 8]),
        ("fashion-mnist-16", 12_000, [1, 16, 16]),
        ("moving-digits", 1797, [8, 16, 16]),
        ("pixel-faces", 10_000, [3, 16, 16]),
    ] {
        let folder = find(name, &datasets()).unwrap();
        let set = ImageSet::open(&folder).unwrap();
        assert_eq!((set.len(), set.shape), (count, shape));
        assert!(
            Split::new(&set, SplitConfig { held_out: 100, n_train: 1000, seed: 0, skip: 0 })
                .unwrap()
                .duplicates
                < 10
        );
        bytes += fs::read_dir(folder).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>();
    }
    assert!(bytes < 6_000_000, "{bytes} bytes");
    let error = find("nonesuch", &datasets()).unwrap_err().to_string();
    assert!(error.contains("digits, fashion-mnist-16, moving-digits, pixel-faces"), "{error}");
}

#[test]
fn a_changed_data_file_is_found() {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(datasets().join("digits")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    ImageSet::open(folder.path()).unwrap();
    let images = folder.path().join("images.idx.gz");
    let mut bytes = fs::read(&images).unwrap();
    bytes[1000] ^= 1;
    fs::write(&images, bytes).unwrap();
    let error = ImageSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("images.idx.gz") && error.contains("SHA-256"), "{error}");
    let toml = folder.path().join("dataset.toml");
    fs::write(&toml, fs::read_to_string(&toml).unwrap() + "\n[extra]\n").unwrap();
    let error = ImageSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("dataset.toml") && error.contains("extra"), "{error}");
}
