//! `audit-data` on sets with planted faults, on clean ones, and on files that are none.

use super::{Place, text};
use heldout_data::{ImageSet, permutation};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tch::Tensor;

/// Training-like images that are all different: the first `n` of 16 x 16 of the set that ships, with their labels.
fn clothes(n: usize) -> (Vec<Vec<u8>>, Vec<i64>) {
    let set = ImageSet::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/fashion-mnist-16"));
    let set = set.unwrap();
    ((0..n).map(|i| set.image(i).unwrap()).collect(), set.labels.unwrap()[..n].to_vec())
}

fn save(path: &Path, pixels: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::GrayImage::from_raw(16, 16, pixels.to_vec()).unwrap().save(path).unwrap();
}

/// Each pixel of the result shows the pixel of `image` at this place.
fn moved(image: &[u8], from: impl Fn(usize, usize) -> (usize, usize)) -> Vec<u8> {
    let pixel = |i: usize| {
        let (y, x) = from(i / 16, i % 16);
        image[y * 16 + x]
    };
    (0..256).map(pixel).collect()
}

fn arrays(path: &Path, images: &[Vec<u8>], labels: &[i64]) {
    let pixels = Tensor::from_slice(&images.concat()).view([images.len() as i64, 1, 16, 16]);
    Tensor::write_safetensors(&[("images", pixels), ("labels", Tensor::from_slice(labels))], path).unwrap();
}

fn audit(place: &Place, args: &[&str]) -> Value {
    let out = place.succeed(&[&["audit-data", "--json"], args].concat());
    serde_json::from_str(&out).unwrap()
}

#[test]
fn planted_repetitions_are_found_and_nothing_else() {
    let place = Place::new();
    let (images, _) = clothes(300);
    for (i, image) in images.iter().enumerate() {
        save(&place.path(&format!("set/{i:03}.png")), image);
    }
    let clean = audit(&place, &["set"]);
    assert_eq!(clean["clean"], true, "{}", clean["verdict"]);
    assert!(clean["labels"].is_null(), "a plain folder has no labels");

    save(&place.path("set/x/equal.png"), &images[10]);
    save(&place.path("set/x/flipped.png"), &moved(&images[20], |y, x| (y, 15 - x)));
    save(
        &place.path("set/x/shifted.png"),
        &moved(&images[30], |y, x| (y.saturating_sub(1), (x + 1).min(15))),
    );
    // Of one group: the second is near to the first by a shift, the third to the second by another.
    let once = moved(&images[40], |y, x| (y, x.saturating_sub(1)));
    save(&place.path("set/x/step1.png"), &once);
    save(&place.path("set/x/step2.png"), &moved(&once, |y, x| (y.saturating_sub(1), x.saturating_sub(1))));
    let bright: Vec<u8> = images[50].iter().map(|v| (f64::from(*v) * 0.98).round() as u8).collect();
    save(&place.path("set/x/brighter.png"), &bright);
    let found = audit(&place, &["set", "--out", "page.html"]);
    assert_eq!(found["clean"], false);
    assert_eq!(found["exact_duplicates"]["first"], serde_json::json!([["010.png", "x/equal.png"]]));
    let near = serde_json::json!([
        ["020.png", "x/flipped.png"],
        ["030.png", "x/shifted.png"],
        ["040.png", "x/step1.png", "x/step2.png"],
        ["050.png", "x/brighter.png"]
    ]);
    assert_eq!(found["near_duplicates"]["first"], near);
    let verdict = found["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with("306 images with 1 exact repetition in 1 group, 5 near repetitions in 4 groups")
    );
    let page = fs::read_to_string(place.path("page.html")).unwrap();
    assert!(page.contains(verdict) && page.contains("Nearly equal") && page.contains("shifted.png"));
    assert!(!page.contains("http"), "the page needs nothing else");
    assert_eq!(audit(&place, &["set"]), audit(&place, &["set"]), "same input, same answer");
}

#[test]
fn labels_that_help_to_copy_are_found() {
    let place = Place::new();
    let (images, labels) = clothes(600);
    let kind = |labels: &[i64]| {
        arrays(&place.path("set.safetensors"), &images, labels);
        let found = audit(&place, &["set.safetensors"]);
        (found["labels"]["kind"].as_str().unwrap().to_owned(), found)
    };
    let ten: Vec<i64> = labels.iter().map(|l| l % 5).collect(); // enough images in each class
    let (plain, found) = kind(&ten);
    assert_eq!((plain.as_str(), &found["clean"]), ("plain", &Value::Bool(true)), "{}", found["verdict"]);
    let l = &found["labels"];
    assert!(l["agreement"].as_f64().unwrap() > 2.0 * l["expected_by_chance"].as_f64().unwrap(), "{l}");
    let [low, high] = [0, 1].map(|i| l["chance_interval"][i].as_f64().unwrap());
    let expected = l["expected_by_chance"].as_f64().unwrap();
    assert!(low < expected && expected < high, "{l}");

    let dealt: Vec<i64> = permutation(600, 1).into_iter().map(|i| ten[i]).collect();
    let (random, found) = kind(&dealt);
    assert_eq!(random, "random");
    assert!(
        found["verdict"].as_str().unwrap().contains("cannot be told from random"),
        "{}",
        found["verdict"]
    );
    let (unique, found) = kind(&(0..600).collect::<Vec<i64>>());
    assert_eq!(unique, "unique");
    assert!(found["expectations"].to_string().contains("Gu et al. 2023"));
    assert_eq!(kind(&[7; 600]).0, "single");
    let mut thin = ten;
    thin[..3].fill(99);
    assert_eq!(kind(&thin).0, "thin");
}

#[test]
fn a_set_is_measured_against_a_model() {
    let place = Place::new();
    let shipped = audit(&place, &["digits", "--model", "dit-s-2"]);
    assert_eq!(shipped["clean"], true, "{}", shipped["verdict"]);
    let model = &shipped["model"];
    let parameters = model["parameters"].as_f64().unwrap();
    let images = shipped["images"]["read"].as_f64().unwrap();
    assert_eq!(model["parameters_per_image"].as_f64().unwrap(), parameters / images);
    assert_eq!(model["can_copy_all"], true);
    assert!(shipped["verdict"].as_str().unwrap().contains("enough parameters to copy all"));
    let said = place.succeed(&["audit-data", "digits", "--model", "dit-s-2"]);
    assert!(said.starts_with(shipped["verdict"].as_str().unwrap()), "{said}");
    assert!(said.contains("Yoon et al. 2023") && said.contains("Bonnaire et al. 2025"), "{said}");
    place.fail(&["audit-data", "digits", "--model", "dit-s-3"], 2, &["dit-s-3"]);
}

#[test]
fn what_cannot_be_read_is_counted_or_refused() {
    let place = Place::new();
    let (images, _) = clothes(12);
    for (i, image) in images.iter().enumerate() {
        save(&place.path(&format!("set/{i:02}.png")), image);
    }
    let whole = fs::read(place.path("set/00.png")).unwrap();
    fs::write(place.path("set/05.png"), &whole[..whole.len() / 2]).unwrap();
    fs::write(place.path("set/07.png"), "not a picture").unwrap();
    fs::write(place.path("set/notes.txt"), "text").unwrap();
    image::RgbaImage::from_pixel(9, 20, image::Rgba([9, 9, 9, 0])).save(place.path("set/clear.png")).unwrap();
    std::os::unix::fs::symlink(place.path("set"), place.path("set/circle")).unwrap();
    let found = audit(&place, &["set"]);
    let images = &found["images"];
    assert_eq!((images["found"].as_u64(), images["read"].as_u64()), (Some(13), Some(11)));
    assert_eq!((images["unreadable"].as_u64(), images["ignored"].as_u64()), (Some(2), Some(2)));
    assert_eq!((images["constant"].as_u64(), images["transparent"].as_u64()), (Some(1), Some(1)));
    assert_eq!(images["sizes"], serde_json::json!([[16, 16, 11], [20, 9, 1]]));
    let notes = images["notes"].as_str().unwrap();
    for words in ["2 of 13 files", "05.png", "1 images are resized", "partly transparent"] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    assert!(
        found["verdict"].as_str().unwrap().contains("2 files that cannot be read"),
        "{}",
        found["verdict"]
    );

    fs::create_dir(place.path("empty")).unwrap();
    place.fail(&["audit-data", "empty"], 1, &["empty", "holds no PNG or JPEG file"]);
    save(&place.path("single/a.png"), &clothes(1).0[0]);
    place.fail(&["audit-data", "single"], 1, &["single", "1 readable images", "at least 2"]);
    place.fail(&["audit-data", "nowhere"], 2, &["nowhere"]);
    let mut npy =
        b"\x93NUMPY\x01\x00\x3d\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9, 8, 8)}\n".to_vec();
    npy.resize(npy.len() + 100, 0);
    fs::write(place.path("lies.npy"), npy).unwrap();
    place.fail(&["audit-data", "lies.npy"], 1, &["lies.npy", "576 bytes", "100 are there"]);
    let out = place.run(&["audit-data", "set", "--floats", "percent"]);
    assert!(text(&out.stderr).contains("neither unit nor signed"));
}
