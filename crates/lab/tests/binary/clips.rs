//! Clips: their frames are channels to all but the network and the pictures.

use super::{Place, TINY, json};
use image::GenericImageView;
use std::fs;

/// A space-time transformer that trains in a second, on the moving digits that ship, and images beside it.
fn place() -> Place {
    let place = Place::new();
    let model = "[model]
kind = \"space_time_dit\"
frames = 8
attention = \"divided\"
image = { in_channels = 1, out_channels = 1, sample_size = 16, patch_size = 8, depth = 1, width = 16, heads = 2, num_classes = 0, label_dropout = 0.0 }

[train]";
    let (head, rest) = TINY.split_once("[model]").unwrap();
    let (_, tail) = rest.split_once("[train]").unwrap();
    let clips = [&head.replace("\"digits\"", "\"moving-digits\""), model, tail].concat();
    fs::write(place.path("clips.toml"), clips).unwrap();
    place
}

#[test]
fn a_model_of_clips_trains_and_shows_them_as_rows() {
    let place = place();
    let compare = "compare={baseline=\"few\",outcomes=[\"motion\",\"quality\"]}";
    let args = ["experiment", "clips.toml", "--out", "run", "--set", compare, "--set", "train.steps=4"];
    place.succeed(&args);
    let arm = place.path("run/arms/few-seed0");
    let result = json(&arm.join("arm.json"));
    assert_eq!(result["f_mem_copier"].as_f64(), Some(1.0));
    assert!(result["motion"]["value"].as_f64().unwrap() > result["motion"]["floor"].as_f64().unwrap());
    assert_eq!(json(&arm.join("shape.json")), serde_json::json!([1, 8, 16, 16]));
    let study = json(&place.path("run/study.json"));
    assert_eq!(study["comparison"]["effects"][0]["outcome"], "motion");
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(page.contains("1797 clips, 8 frames of 16x16 pixels, grey"), "the data are not said");
    assert!(page.contains("the motion of its clips is"), "the motion is not said");

    // Frames of 16 pixels with one between them; eight clips in three columns.
    let size = |file: &str| image::open(place.path(file)).unwrap().dimensions();
    assert_eq!(size("run/arms/few-seed0/samples.png"), (135, 8 * 17 - 1));
    place.succeed(&["sample", "run/arms/few-seed0", "--n", "20", "--out", "drawn", "--steps", "2"]);
    assert_eq!((size("drawn/00000.png"), size("drawn/grid.png")), ((135, 16), (2 * 136 - 1, 10 * 17 - 1)));
    let described = place.succeed(&["describe", "run/arms/few-seed0", "--json"]);
    assert!(described.replace([' ', '\n'], "").contains("\"sample_shape\":[8,16,16]"), "{described}");
}

#[test]
fn what_is_of_images_alone_is_refused() {
    let place = place();
    let refuse = |recipe: &str, value: &str, words: &[&str]| {
        place.fail(&["experiment", recipe, "--out", "out", "--set", value], 2, words);
    };
    refuse("clips.toml", "model.frames=4", &["model.frames: 4", "clips of 8 frames"]);
    refuse("clips.toml", "data.name=digits", &["model.frames: 8", "digits", "images"]);
    refuse("clips.toml", "monitor.features={network=\"pixels\"}", &["monitor.features", "clips"]);
    let jitter = "regularization.augment=[{kind=\"color_jitter\",brightness=0.1}]";
    refuse("clips.toml", jitter, &["regularization.augment[0]", "clips"]);
    let compare = "compare={baseline=\"few\",outcomes=[\"motion\"]}";
    refuse("tiny.toml", compare, &["compare.outcomes", "motion"]);
    place.fail(&["audit-data", "moving-digits"], 1, &["moving-digits", "clips of 8 frames"]);
    let info = place.succeed(&["dataset", "moving-digits"]);
    assert!(info.contains("clips       1797 of 8 frames of 16x16 pixels, grey"), "{info}");
}
