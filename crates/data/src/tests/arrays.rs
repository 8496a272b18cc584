//! Matrices and images in arrays, against numpy, and every way in which such files lie.

use crate::{ImageSet, Matrix, PixelRange, Summary, read_matrix};
use heldout_testkit::Golden;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn expected(name: &str) -> Vec<f64> {
    let tensor = Golden::open(env!("CARGO_MANIFEST_DIR"), "arrays").get(name);
    Vec::<f64>::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

#[test]
fn matrices_are_what_numpy_says() {
    for (file, name, single) in [
        ("f4.npy", "rows_f4", true),
        ("f8.npy", "rows", false),
        ("f8_fortran.npy", "rows", false),
        ("f4_big.npy", "rows_f4", true),
        ("i2_big_fortran.npy", "whole", false),
        ("i8.npy", "whole", false),
        ("f2.npy", "rows_f2", true),
        ("two.npz", "rows_f4", true),
        ("two.npz:other", "whole", false),
        ("arrays.safetensors:rows", "rows", false),
        ("arrays.safetensors:rows_f4", "rows_f4", true),
    ] {
        let matrix = read_matrix(&golden(file)).unwrap();
        assert_eq!(matrix.shape(), [5, 3], "{file}");
        assert_eq!(matches!(matrix, Matrix::F32(_)), single, "{file}");
        let rows = matrix.into_f64();
        assert_eq!(rows.as_slice().unwrap(), expected(name), "{file}");
    }
}

/// A `.npy` file of this header and so many bytes.
fn npy(header: &str, bytes: usize) -> Vec<u8> {
    let mut file = b"\x93NUMPY\x01\x00".to_vec();
    file.extend((header.len() as u16).to_le_bytes());
    file.extend(header.as_bytes());
    file.extend(vec![0; bytes]);
    file
}

fn header(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n")
}

#[track_caller]
fn refused(folder: &Path, name: &str, bytes: &[u8], words: &[&str]) {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    let error = read_matrix(&path).unwrap_err().to_string();
    let all = words.iter().all(|word| error.contains(word));
    assert!(all && error.contains(name) && !error.contains('\n'), "{words:?}: {error}");
}

#[test]
fn files_that_lie_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let npy_refused = |header: &str, bytes, words: &[&str]| {
        refused(folder.path(), "x.npy", &npy(header, bytes), words);
    };
    npy_refused(&header("<f4", "(3, 4)"), 47, &["48 bytes", "47 are there", "[3, 4] of <f4"]);
    npy_refused(&header("<f4", "(3, 4)"), 49, &["48 bytes", "49 are there"]);
    npy_refused(&header("<f4", "(3, 4)"), 0, &["48 bytes", "0 are there"]);
    npy_refused(&header("<f8", "(4294967296, 4294967296)"), 8, &["more bytes than any file has"]);
    npy_refused(&header("<f8", "(99999999999999999999, 1)"), 8, &["`shape` is no tuple"]);
    npy_refused(&header("<f4", "(12,)"), 48, &["shape [12]", "[N, D]"]);
    npy_refused(&header("<f4", "(0, 4)"), 0, &["shape [0, 4]", "none of them 0"]);
    npy_refused(&header("<f4", "(1, 3, 4)"), 48, &["shape [1, 3, 4]"]);
    npy_refused(&header("<c8", "(3, 4)"), 96, &["dtype <c8", "convert it"]);
    npy_refused(&header("|b1", "(3, 4)"), 12, &["dtype |b1"]);
    npy_refused(&header("|O", "(3, 4)"), 12, &["dtype |O"]);
    npy_refused("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3, 4)}", 48, &["a structure"]);
    npy_refused("{'descr': '<f4', 'shape': (3, 4)}", 48, &["no `fortran_order`"]);
    npy_refused(&header("<f4", "((((((((((((((3, 4"), 48, &["`shape` is no tuple"]);

    let refused = |name, bytes: &[u8], words: &[&str]| refused(folder.path(), name, bytes, words);
    refused("x.npy", &npy(&header("<f4", "(3, 4)"), 48)[..20], &["truncated within its header"]);
    refused("x.npy", b"\x93NUM", &["too short"]);
    refused("x.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", &["4294967295 bytes"]);
    refused("x.npy", b"\x93NUMPY\x09\x00\x10\x00", &["version 9"]);
    refused("x.npy", b"not an array at all", &["is no .npy file"]);
    refused("x.npy", b"", &["is empty"]);
    refused("x.txt", b"1 2 3", &["must end in .npy"]);
    refused("x.npz", b"PK but no zip", &["no .npz file"]);
    refused("x.npz", &fs::read(golden("two.npz")).unwrap()[..300], &["truncated"]);
    refused("x.npz", &fs::read(golden("compressed.npz")).unwrap(), &["compressed", "numpy.savez"]);
    let arrays = fs::read(golden("arrays.safetensors")).unwrap();
    refused("x.safetensors", &arrays, &["5 arrays: say which", "images, rows, rows_f2"]);
    refused("x.safetensors", &arrays[..arrays.len() - 1], &["truncated"]);
    refused("x.safetensors", b"{}", &["no safetensors file"]);

    let of = |name: &str| read_matrix(&folder.path().join(name)).unwrap_err().to_string();
    fs::write(folder.path().join("x.safetensors"), &arrays).unwrap();
    assert!(
        of("x.safetensors:pool").contains("no array `pool`: it has images"),
        "{}",
        of("x.safetensors:pool")
    );
    assert!(of("absent.npy").contains("absent.npy"), "{}", of("absent.npy"));
}

fn write(path: &Path, tensors: &[(&str, Tensor)]) {
    Tensor::write_safetensors(tensors, path).unwrap();
}

/// Values 0 to 255 as 4 RGB images of 4 x 4, with room to spare: `[4, 3, 4, 4]`, u8.
fn ramp() -> Tensor {
    (Tensor::arange(192, (Kind::Int64, tch::Device::Cpu)) * 255 / 191).to_kind(Kind::Uint8).view([4, 3, 4, 4])
}

fn pixels(set: &ImageSet) -> Tensor {
    set.bytes(&(0..set.len()).collect::<Vec<_>>()).unwrap()
}

#[test]
fn arrays_of_images_are_image_sets() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let images = ramp();
    let unit = images.to_kind(Kind::Float) / 255.0;
    let labels = Tensor::from_slice(&[3i64, 1, 2, 1]);
    let hwc = images.permute([0, 2, 3, 1]).contiguous();
    write(&at("planar.safetensors"), &[("images", images.shallow_clone()), ("labels", labels)]);
    write(&at("interleaved.safetensors"), &[("anything", hwc)]);
    write(&at("unit.safetensors"), &[("images", unit.to_kind(Kind::Half))]);
    write(
        &at("signed.safetensors"),
        &[("images", &unit * 2.0 - 1.0), ("ema", Tensor::zeros([2], (Kind::Float, tch::Device::Cpu)))],
    );
    for name in ["planar", "interleaved", "unit", "signed"] {
        let set = ImageSet::open(&at(&format!("{name}.safetensors"))).unwrap();
        assert_eq!((set.len(), set.shape), (4, [3, 4, 4]), "{name}");
        assert!(pixels(&set).equal(&images), "{name}");
        assert_eq!(set.labels, (name == "planar").then(|| vec![3, 1, 2, 1]), "{name}");
    }
    let signed = ImageSet::open(&at("signed.safetensors")).unwrap();
    assert!(signed.assumed[0].starts_with("floats in [-1, 1], from their minimum"), "{:?}", signed.assumed);
    assert!(Summary::of(&signed).unwrap().to_string().contains("floats in [-1, 1]"));
    let told = ImageSet::open_ranged(&at("unit.safetensors"), Some(PixelRange::Signed)).unwrap();
    assert_eq!(pixels(&told).min().int64_value(&[]), 128);
    assert!(told.assumed[0].contains("as told"), "{:?}", told.assumed);

    let adm = ImageSet::open(&golden("adm.npz")).unwrap();
    assert_eq!((adm.len(), adm.shape, adm.labels.as_deref()), (4, [3, 6, 5], Some(&[0, 1, 2, 3][..])));
    assert!(pixels(&adm).equal(&Golden::open(env!("CARGO_MANIFEST_DIR"), "arrays").get("images")));
    let named = ImageSet::open(&golden("arrays.safetensors:images")).unwrap();
    assert!(pixels(&named).equal(&pixels(&adm)));
}

#[test]
fn shards_are_one_set_in_the_order_of_their_names() {
    let folder = tempfile::tempdir().unwrap();
    let images = ramp();
    for (name, first, n) in [("b.safetensors", 1, 3), ("a.safetensors", 0, 1)] {
        write(&folder.path().join(name), &[("images", images.narrow(0, first, n))]);
    }
    let set = ImageSet::open(folder.path()).unwrap();
    assert!(pixels(&set).equal(&images));
    write(&folder.path().join("c.safetensors"), &[("images", images.narrow(3, 0, 2).contiguous())]);
    let error = ImageSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("c.safetensors") && error.contains("make all alike"), "{error}");
    let labels = Tensor::from_slice(&[1i64]);
    write(&folder.path().join("c.safetensors"), &[("images", images.narrow(0, 0, 1)), ("labels", labels)]);
    let error = ImageSet::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("holds no labels"), "{error}");
    // Pictures in classes come before arrays that lie about.
    std::fs::create_dir(folder.path().join("class")).unwrap();
    super::save(&folder.path().join("class/1.png"), 1);
    assert_eq!(ImageSet::open(folder.path()).unwrap().classes, ["class"]);
}

#[test]
fn arrays_that_are_no_images_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.safetensors");
    let f32 = (Kind::Float, tch::Device::Cpu);
    let nan = Tensor::zeros([2, 3, 4, 4], f32);
    let _ = nan.get(1).get(0).get(0).get(0).fill_(f64::NAN);
    for (tensor, words) in [
        (Tensor::zeros([5, 7], f32), "shape [5, 7]"),
        (Tensor::zeros([5, 4, 7, 7], f32), "1 or 3 channels"),
        (Tensor::zeros([5, 3, 0, 7], f32), "no pixel"),
        (Tensor::zeros([5, 3, 7, 7], (Kind::Int64, tch::Device::Cpu)), "numbers of I64"),
        (Tensor::full([2, 3, 4, 4], 255, f32), "numbers from 255.0000 to 255.0000"),
        (Tensor::full([2, 3, 4, 4], -3, f32), "numbers from -3.0000"),
        (nan, "image 1 has a number that is not finite"),
    ] {
        write(&path, &[("images", tensor)]);
        let error = ImageSet::open(&path).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("x.safetensors"), "{words}: {error}");
    }
    let over = Tensor::full([2, 1, 2, 2], 1.02, f32);
    write(&path, &[("images", over)]);
    let set = ImageSet::open(&path).unwrap();
    assert!(set.assumed[1].starts_with("2 images have numbers outside"), "{:?}", set.assumed);
    assert_eq!(set.image(0).unwrap(), [255; 4]);
}
