//! The commands for what others made: metrics of matrices, audits of folders.

use super::{Place, json, text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Bytes of the digits that ship, `[1797, 1, 8, 8]`.
fn digits() -> Tensor {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/digits");
    let set = heldout_data::ImageSet::open(&path).unwrap();
    set.bytes(&(0..set.len()).collect::<Vec<_>>()).unwrap()
}

fn save(place: &Place, name: &str, tensor: &Tensor) {
    Tensor::write_safetensors(&[("features", tensor)], place.path(name)).unwrap();
}

fn save_images(place: &Place, name: &str, images: &Tensor) {
    Tensor::write_safetensors(&[("images", images)], place.path(name)).unwrap();
}

fn sets(place: &Place) {
    tch::manual_seed(1);
    let draw = |n| Tensor::randn([n, 8], (Kind::Float, Device::Cpu));
    let train = draw(300);
    save(place, "train.safetensors", &train);
    save(place, "held.safetensors", &draw(200));
    save(place, "copies.safetensors", &(train.narrow(0, 0, 200) + 0.001 * draw(200)));
    save(place, "fresh.safetensors", &draw(200));
    save(place, "narrow.safetensors", &draw(200).narrow(1, 0, 7).contiguous());
    save(place, "few.safetensors", &draw(1));
    let broken = draw(200);
    let _ = broken.get(7).get(3).fill_(f64::NAN);
    save(place, "nan.safetensors", &broken);
}

fn measured(place: &Place, generated: &str, more: &[&str]) -> Value {
    let args = ["metrics", "--generated", generated, "--train", "train.safetensors", "--json"];
    serde_json::from_str(&place.succeed(&[&args[..], more].concat())).unwrap()
}

#[test]
fn metrics_of_matrices_stand_beside_real_data() {
    let place = Place::new();
    sets(&place);
    let held_out = ["--held-out", "held.safetensors"];
    let copies = measured(&place, "copies.safetensors", &held_out);
    let fresh = measured(&place, "fresh.safetensors", &held_out);
    let names: Vec<&String> = copies.as_object().unwrap().keys().collect();
    let usual =
        ["auth_pct", "c_t", "coverage", "density", "f_mem", "fd", "kid", "precision", "recall", "vendi"];
    assert_eq!(names, usual);
    let value = |found: &Value, name: &str| found[name]["value"].as_f64().unwrap();
    assert!(value(&copies, "fd") < value(&fresh, "fd"), "a copier is nearest to the training set");
    assert_eq!((value(&copies, "f_mem"), value(&copies, "auth_pct")), (1.0, 0.0));
    assert!(value(&copies, "c_t") < -8.0 && value(&fresh, "c_t").abs() < 4.0);
    for name in usual {
        let row = &copies[name];
        let (low, high) = (row["ci"][0].as_f64().unwrap(), row["ci"][1].as_f64().unwrap());
        assert!(low <= high && row["real_vs_train"].is_f64(), "{name}: {row}");
        assert_eq!(row["against_held_out"].is_null(), ["c_t", "vendi"].contains(&name), "{name}");
    }
    assert_eq!(copies["fd"]["real_vs_train"], fresh["fd"]["real_vs_train"]);

    let all = measured(&place, "fresh.safetensors", &["--held-out", "held.safetensors", "--metric", "all"]);
    assert_eq!(all.as_object().unwrap().len(), 17);
    assert!(all["mifid"]["ci"].is_array() && all["fd"]["ci"].is_array(), "{all}");
    let of_train = ["--metric", "mifid", "--mifid-order", "train"];
    let of_train = measured(&place, "fresh.safetensors", &of_train);
    assert!(of_train["mifid"]["ci"].is_null(), "an interval that nobody computed: {of_train}");
    let fast = measured(&place, "fresh.safetensors", &["--metric", "fd", "--fast"]);
    assert!(fast["fd"]["ci"].is_null() && fast["fd"]["value"].is_f64(), "{fast}");
    let closed = ["--metric", "precision", "--comparison", "less-or-equal", "--nearest-k", "3"];
    assert_eq!(measured(&place, "fresh.safetensors", &closed).as_object().unwrap().len(), 1);
    let out = place.run(&["metrics", "--generated", "fresh.safetensors", "--train", "train.safetensors"]);
    assert!(out.status.success() && text(&out.stderr).contains("no held-out set"), "{}", text(&out.stderr));
    assert!(!text(&out.stdout).contains("c_t"), "a metric that needs held-out rows was made up");
}

#[test]
fn matrices_that_do_not_go_together_are_errors() {
    let place = Place::new();
    sets(&place);
    let metrics = |generated: &str, more: &[&str], status: i32, words: &[&str]| {
        let args = ["metrics", "--generated", generated, "--train", "train.safetensors"];
        place.fail(&[&args[..], more].concat(), status, words);
    };
    metrics("few.safetensors", &[], 2, &["generated", "1", "6"]);
    metrics("nan.safetensors", &[], 2, &["generated", "row 7"]);
    metrics("narrow.safetensors", &[], 1, &["narrow.safetensors", "7", "8"]);
    metrics("absent.npy", &[], 1, &["absent.npy"]);
    metrics("fresh.safetensors", &["--metric", "c_t"], 2, &["held_out"]);
    metrics("fresh.safetensors", &["--metric", "fid"], 2, &["fid", "fd"]);
    metrics("fresh.safetensors", &["--kid-subset-size", "some"], 2, &["some"]);
    metrics("fresh.safetensors", &["--nearest-k", "0"], 2, &["nearest_k", "0", "at least 1"]);
    metrics("fresh.safetensors", &["--carlini-k", "1"], 2, &["carlini_k", "1", "at least 2"]);
    metrics("fresh.safetensors", &["--memorized-ratio", "nan"], 2, &["memorized_ratio", "NaN", "1/3"]);
}

/// Copies that were flipped, shifted by a pixel, or made 2 % brighter, among fresh digits.
#[test]
fn an_audit_finds_disguised_copies_and_no_others() {
    let place = Place::new();
    let all = digits();
    let (train, held_out) = (all.narrow(0, 0, 600), all.narrow(0, 600, 400));
    save_images(&place, "train.safetensors", &train);
    save_images(&place, "held.safetensors", &held_out);
    let fresh = all.narrow(0, 1000, 200);
    let shifted = train.narrow(0, 10, 4).to_kind(Kind::Float).replication_pad2d([1, 0, 0, 1]);
    let shifted = shifted.narrow(2, 1, 8).narrow(3, 0, 8).to_kind(Kind::Uint8);
    let brighter =
        (train.narrow(0, 20, 4).to_kind(Kind::Float) * 1.02 + 2.0).clamp(0, 255).to_kind(Kind::Uint8);
    let planted = Tensor::cat(&[&fresh, &train.narrow(0, 0, 4).flip([3]), &shifted, &brighter], 0);
    let sets: [(&str, Tensor); 3] =
        [("copier", train.narrow(0, 100, 200)), ("planted", planted), ("fresh", fresh.shallow_clone())];
    for (name, images) in &sets {
        save_images(&place, &format!("{name}.safetensors"), images);
    }
    let run = |name: &str| {
        let generated = format!("{name}.safetensors");
        let args =
            ["audit", "--generated", &generated, "--train", "train.safetensors", "--features", "pixels"];
        let more = ["--held-out", "held.safetensors", "--out", name];
        let said = place.succeed(&[&args[..], &more].concat());
        assert!(
            fs::read_to_string(place.path(name).join("audit.html")).unwrap().contains("<img src=\"data:")
        );
        (said, json(&place.path(name).join("audit.json")))
    };
    let (said, copier) = run("copier");
    assert!(said.starts_with("This set copies: 200 of 200"), "{said}");
    assert_eq!(copier["copying"], "copies");
    let fd = |found: &Value, column: &str| found["metrics"]["FD(pixels)"][column].as_f64().unwrap();
    assert!(fd(&copier, "value") < fd(&copier, "real_vs_train"), "against the training set a copier is best");

    let (_, fresh) = run("fresh");
    assert_eq!(fresh["copying"], "no_copies", "{}", fresh["verdict"]);
    assert!(fresh["false_positives"]["ci"][1].as_f64().unwrap() < 0.05, "{}", fresh["false_positives"]);

    let (_, planted) = run("planted");
    let suspects = planted["suspects"].as_array().unwrap();
    let copies = suspects.iter().filter(|s| s["ratio"].as_f64().unwrap() < 1.0 / 3.0);
    let mut found: Vec<(usize, usize)> = copies
        .map(|s| {
            ["sample", "nearest"].map(|k| s[k].as_str().unwrap().rsplit(' ').next().unwrap().parse().unwrap())
        })
        .map(|[sample, nearest]| (sample, nearest))
        .filter(|(sample, _)| *sample >= 200)
        .collect();
    found.sort_unstable();
    let wanted = (0..4).map(|i| (200 + i, i)).chain((0..4).map(|i| (204 + i, 10 + i)));
    let wanted: Vec<_> = wanted.chain((0..4).map(|i| (208 + i, 20 + i))).collect();
    assert_eq!(found, wanted);
}

/// The same in colour: three digits, one in each channel.
#[test]
fn an_audit_finds_disguised_copies_in_colour() {
    let place = Place::new();
    let all = digits();
    let colour = |first: i64, n: i64| {
        let channels: Vec<Tensor> = (0..3).map(|c| all.narrow(0, first + 400 * c, n)).collect();
        Tensor::cat(&channels, 1)
    };
    let (train, held_out) = (colour(0, 250), colour(250, 100));
    save_images(&place, "train.safetensors", &train);
    save_images(&place, "held.safetensors", &held_out);
    let float = train.to_kind(Kind::Float);
    let shifted = float.narrow(0, 10, 4).replication_pad2d([0, 1, 1, 0]).narrow(2, 0, 8).narrow(3, 1, 8);
    let brighter = (float.narrow(0, 20, 4) * 1.02 + 2.0).clamp(0, 255);
    let [shifted, brighter] = [shifted, brighter].map(|images| images.to_kind(Kind::Uint8));
    let generated = Tensor::cat(&[colour(350, 38), train.narrow(0, 0, 4).flip([3]), shifted, brighter], 0);
    save_images(&place, "planted.safetensors", &generated);
    let args = [
        "audit",
        "--generated",
        "planted.safetensors",
        "--train",
        "train.safetensors",
        "--features",
        "pixels",
    ];
    place.succeed(&[&args[..], &["--held-out", "held.safetensors", "--out", "a"]].concat());
    let found = json(&place.path("a/audit.json"));
    assert_eq!(found["compared_pixels"], serde_json::json!([3, 8, 8]));
    assert_eq!((&found["copies"]["count"], &found["false_positives"]["count"]), (&12.into(), &0.into()));
}

/// Without held-out images a part of the training images stands in, and that is said.
#[test]
fn an_audit_without_held_out_images_says_so() {
    let place = Place::new();
    let all = digits();
    save_images(&place, "train.safetensors", &all.narrow(0, 0, 900));
    save_images(&place, "fresh.safetensors", &all.narrow(0, 1000, 100));
    let args =
        ["audit", "--generated", "fresh.safetensors", "--train", "train.safetensors", "--features", "pixels"];
    let said = place.succeed(&[&args[..], &["--out", "a", "--json"]].concat());
    let found: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(found["copying"], "no_copies", "{}", found["verdict"]);
    assert!(found["floor"].as_str().unwrap().contains("set aside"), "{}", found["floor"]);

    save_images(&place, "few.safetensors", &all.narrow(0, 0, 20));
    let few =
        ["audit", "--generated", "fresh.safetensors", "--train", "few.safetensors", "--features", "pixels"];
    place.fail(&[&few[..], &["--out", "out"]].concat(), 2, &["--held-out", "20"]);
}

#[test]
fn folders_that_cannot_be_audited_are_errors_and_damaged_images_are_counted() {
    let place = Place::new();
    let all = digits();
    for (folder, first, n) in [("generated", 1000, 60), ("train", 0, 300), ("held", 400, 100)] {
        fs::create_dir(place.path(folder)).unwrap();
        for i in 0..n {
            let pixels = Vec::<u8>::try_from(all.get(first + i).contiguous().flatten(0, -1)).unwrap();
            let image = image::GrayImage::from_raw(8, 8, pixels).unwrap();
            image.save(place.path(folder).join(format!("{i:04}.png"))).unwrap();
        }
    }
    let whole = fs::read(place.path("generated/0030.png")).unwrap();
    fs::write(place.path("generated/0030.png"), &whole[..whole.len() / 2]).unwrap();
    let args = ["audit", "--train", "train", "--held-out", "held"];
    let pixels = ["--features", "pixels"];
    let said = place.succeed(&[&args[..], &pixels, &["--generated", "generated", "--out", "audit"]].concat());
    assert!(said.contains("1 of 60 files cannot be read") && said.contains("0030.png"), "{said}");
    assert_eq!(json(&place.path("audit/audit.json"))["images"]["generated"], 59);

    let fail = |generated: &str, more: &[&str], status, words: &[&str]| {
        place.fail(&[&args[..], &["--generated", generated, "--out", "out"], more].concat(), status, words);
    };
    fs::create_dir(place.path("empty")).unwrap();
    fail("empty", &pixels, 1, &["--generated", "empty"]);
    fail("absent", &pixels, 1, &["--generated", "absent"]);
    fail("generated", &["--features", "resnet"], 2, &["resnet", "pixels"]);
    fail("generated", &["--features", "classifier"], 2, &["classifier", "labels"]);
    fail("generated", &["--features", "torchscript:absent.pt"], 1, &["absent.pt"]);
    fail("generated", &["--features", "pixels", "--batch-size", "0"], 2, &["--batch-size"]);
}
