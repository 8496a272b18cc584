//! Why a trained model stands where it stands.

use super::Place;
use serde_json::Value;
use std::fs;

fn diagnosed(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&place.succeed(&[&["diagnose", "--json"], args].concat())).unwrap()
}

fn numbers(list: &Value, pointer: &str) -> Vec<f64> {
    list.as_array().unwrap().iter().map(|level| level.pointer(pointer).unwrap().as_f64().unwrap()).collect()
}

/// An arm that has seen 16 images for long is nearer to them than one that has seen 500, and its samples, weights and line
/// to the other are measured.
#[test]
fn a_small_training_set_shows() {
    let place = Place::new();
    let longer = ["--set", "train.steps=400", "--set", "validation.every=400", "--set", "monitor.every=400"];
    let longer = [&longer[..], &["--set", "checkpoint.every=400", "--set", "model.dropout=0.0"]].concat();
    place.succeed(&[&["experiment", "tiny.toml", "--out", "run"], &longer[..]].concat());
    let (few, many) = ("run/arms/few-seed0", "run/arms/many-seed0");
    let small = diagnosed(&place, &[few, "--images", "64", "--other", many]);
    let large = diagnosed(&place, &[many, "--images", "64"]);
    assert_eq!(
        (&small["n_train"], &small["n_held_out"], &small["step"]),
        (&16.into(), &64.into(), &400.into())
    );
    let gaps = |d: &Value| numbers(&d["loss_gap"], "/gap/value");
    assert_eq!(gaps(&small).len(), 8);
    assert_eq!(numbers(&small["loss_gap"], "/log_snr")[..2], [-4.0, -3.0]);
    let sum = |x: Vec<f64>| x.iter().sum::<f64>();
    assert!(sum(gaps(&small)) > sum(gaps(&large)) + 0.02, "{:?} {:?}", gaps(&small), gaps(&large));
    // Nearer to its copier, from the middle of the noise levels on: with more noise all denoisers agree.
    let share = |d: &Value, set: &str| {
        let shares = numbers(&d["denoiser_distance"], &format!("/{set}/share/value"));
        assert!(shares.iter().all(|s| *s > 0.0 && *s < 3.0), "{shares:?}");
        sum(shares[4..].to_vec())
    };
    assert!(share(&small, "train") < 0.6 * share(&large, "train"));
    assert!(share(&small, "held_out") < 0.85 * share(&large, "held_out"));
    for d in [&small, &large] {
        let of = |name: &str| d["curvature"][name]["value"].as_f64().unwrap();
        assert!(of("largest") > 0.0 && of("largest") > of("smallest"), "{}", d["curvature"]);
        let residual = d["curvature"]["largest"]["residual"].as_f64().unwrap();
        assert!(residual < 0.05 * of("largest"), "{}", d["curvature"]);
        assert!(d["noise_scale"]["at_least"].as_f64().unwrap() > 1.0, "{}", d["noise_scale"]);
        let sides = numbers(&d["receptive_field"], "/side");
        assert!(sides.len() == 8 && sides.iter().all(|s| *s >= 3.0 && *s <= 16.0), "{sides:?}");
        assert_eq!(d["modes"]["classes"].as_array().unwrap().len(), 10);
        let floor = &d["modes"]["total_variation"]["floor"];
        assert!(floor["value"].as_f64().unwrap() > 0.0, "{floor}");
    }
    let barrier = &small["barrier"]["held_out"];
    let losses: Vec<f64> = serde_json::from_value(barrier["losses"].clone()).unwrap();
    assert_eq!(losses.len(), 11);
    let ends = numbers(&small["loss_gap"], "/held_out/value");
    let mean = ends.iter().sum::<f64>() / ends.len() as f64;
    assert!((losses[0] - mean).abs() < 1e-6, "{losses:?} {mean}");
    assert!(barrier["barrier"]["value"].as_f64().unwrap() > 0.0 && large.get("barrier").is_none());
    let again = || diagnosed(&place, &[many, "--images", "8", "--levels", "1"]);
    assert_eq!(again(), again());

    let said = place.succeed(&["diagnose", few, "--levels", "3", "--images", "16", "--weights", "live"]);
    for words in ["16 training images", "gradient noise scale", "Missing classes", "the held-out loss"] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }

    place.fail(&["diagnose", few, "--levels", "0"], 2, &["--levels", "0"]);
    place.fail(&["diagnose", few, "--images", "1"], 2, &["--images", "1"]);
    place.fail(&["diagnose", "nowhere"], 1, &["nowhere", "holds no model"]);
    place.fail(&["diagnose", few, "--other", "nowhere"], 1, &["nowhere", "holds no model"]);
    let wider = ["train", "tiny.toml", "--out", "wider", "--set", "train.steps=2"];
    place.succeed(&[&wider[..], &["--set", "model.block_out_channels=[8,16]"]].concat());
    let other = ["diagnose", few, "--other", "wider/arms/base-seed0"];
    place.fail(&other, 2, &["--other", "another architecture", "down_blocks"]);
    let arm = place.path(few).join("arm.toml");
    let recipe = fs::read_to_string(&arm).unwrap();
    fs::write(&arm, recipe.replace("held_out = 64", "held_out = 0")).unwrap();
    place.fail(&["diagnose", few], 2, &["data.split.held_out", "0"]);
    fs::write(&arm, recipe.replace("held_out = 64", "held_out = 1")).unwrap();
    place.fail(&["diagnose", few], 2, &["data.split.held_out", "1 images"]);
    fs::write(&arm, recipe.replace("digits", "no-such-set")).unwrap();
    let out = place.run(&["diagnose", few]);
    assert!(!out.status.success() && super::text(&out.stderr).contains("no-such-set"));
    fs::remove_file(place.path(few).join("final.safetensors")).unwrap();
    fs::write(&arm, recipe).unwrap();
    assert!(
        diagnosed(&place, &[few, "--images", "8", "--levels", "1"])["modes_absent"]
            .as_str()
            .unwrap()
            .contains("not finished")
    );
}

/// A network of one more channel, for what is known of an image, is sampled from and diagnosed like others.
#[test]
fn a_model_of_masked_images_is_opened() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--with", "ambient", "--out", "run", "--set", "train.steps=4"]);
    let arm = "run/arms/base-seed0";
    place.succeed(&["sample", arm, "--n", "2", "--steps", "2", "--out", "samples"]);
    let found = diagnosed(&place, &[arm, "--images", "4", "--levels", "1"]);
    assert_eq!(numbers(&found["loss_gap"], "/log_snr"), [-0.5]);
}
