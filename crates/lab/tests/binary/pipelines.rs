//! Pipelines of diffusers through the binary: the images that diffusers makes of the same noise, and bad input.

use super::Place;
use heldout_testkit::Golden;
use std::path::{Path, PathBuf};
use tch::Tensor;

pub(super) fn golden() -> (Golden, PathBuf) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pipelines");
    (Golden::open(env!("CARGO_MANIFEST_DIR"), "pipelines"), folder)
}

pub(super) fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

/// Writes the noise of a case and gives the file's path.
fn noise(place: &Place, golden: &Golden, case: &str) -> String {
    let file = place.path(&format!("{case}.safetensors"));
    let mut tensors = vec![("initial", golden.get(&format!("{case}.initial")))];
    tensors.extend((case == "ddpm").then(|| ("steps", golden.get("ddpm.steps"))));
    Tensor::write_safetensors(&tensors, &file).unwrap();
    file.to_string_lossy().into_owned()
}

const TEXTS: [&str; 8] = [
    "--prompt",
    "a photo of the cat",
    "--prompt",
    "the photo's cat",
    "--negative",
    "of the",
    "--size",
    "16x16",
];

/// Largest difference of the final images, in `[-1, 1]`, stays below a thousandth; seen: 1e-5.
#[test]
fn whole_pipelines_give_the_images_of_diffusers() {
    let (golden, folder) = golden();
    let place = Place::new();
    let (hint, lora) = (path(&folder, "hint.png"), path(&folder, "lora/pytorch_lora_weights.safetensors"));
    let controlled = [&TEXTS[..], &["--control", &hint]].concat();
    let cases: [(&str, &str, &str, Vec<&str>); 7] = [
        ("ddpm", "ddpm", "ddpm", vec!["--n", "2"]),
        ("dit", "dit", "dit", vec!["--class", "tabby", "--class", "3"]),
        ("sd", "sd", "sd", TEXTS.to_vec()),
        ("sd-plain", "sd", "sd", [&TEXTS[..], &["--guidance", "1"]].concat()),
        ("sd-lora", "sd", "sd", [&TEXTS[..], &["--lora", &lora]].concat()),
        ("control", "control", "sd", [&controlled[..], &["--control-scale", "0.7"]].concat()),
        ("control-guess", "control", "sd", [&controlled[..], &["--guess"]].concat()),
    ];
    for (case, pipeline, drawn, options) in cases {
        let noise = noise(&place, &golden, drawn);
        let model = path(&folder, pipeline);
        let fixed = ["sample", &model, "--steps", "4", "--noise", &noise, "--tensors", "--out", case];
        place.succeed(&[&fixed[..], &options].concat());
        let found = Tensor::read_safetensors(place.path(case).join("images.safetensors")).unwrap();
        let wanted = golden.get(&format!("{case}.images"));
        assert_eq!(found[0].1.size(), wanted.size(), "{case}");
        let error = (&found[0].1 - wanted).abs().max().double_value(&[]);
        assert!(error < 1e-4, "{case}: {error}");
        assert!(place.path(case).join("00001.png").is_file() && place.path(case).join("grid.png").is_file());
    }
}

/// Image i is a function of the seed and of i, whatever the batch; the pipeline's own noise and sizes.
#[test]
fn pipelines_sample_by_their_seed() {
    let (_, folder) = golden();
    let place = Place::new();
    let model = path(&folder, "sd");
    let sample = |out: &str, more: &[&str]| {
        let fixed = ["sample", &model, "--steps", "2", "--prompt", "the cat", "--out", out];
        place.succeed(&[&fixed[..], more].concat());
        std::fs::read(place.path(out).join("00002.png")).unwrap()
    };
    let three = sample("three", &["--n", "3", "--batch-size", "2"]);
    assert_eq!(three, sample("four", &["--n", "4", "--batch-size", "3"]));
    assert_ne!(three, sample("other", &["--n", "3", "--seed", "1"]));
}

/// Decoded in tiles, an image of one tile is the same to the last bit, and a larger one has its whole size.
#[test]
fn large_images_are_decoded_in_tiles() {
    let (_, folder) = golden();
    let place = Place::new();
    let model = path(&folder, "sd");
    let sample = |out: &str, size: &str, more: &[&str]| {
        let fixed = ["sample", &model, "--steps", "2", "--prompt", "the cat", "--size", size, "--tensors"];
        place.succeed(&[&fixed[..], &["--out", out], more].concat());
        Tensor::read_safetensors(place.path(out).join("images.safetensors")).unwrap().remove(0).1
    };
    assert_eq!(sample("whole", "16x16", &[]), sample("one", "16x16", &["--tiled"]));
    let (whole, tiled) = (sample("large", "40x24", &[]), sample("tiles", "40x24", &["--tiled"]));
    assert_eq!((tiled.size(), tiled.size()), (whole.size(), vec![1, 3, 24, 40]));
    assert_ne!(whole, tiled, "norms see a tile alone");
    let ddpm = path(&folder, "ddpm");
    place.fail(&["sample", &ddpm, "--tiled", "--out", "out"], 2, &["--tiled", "AutoencoderKL"]);
}

#[test]
fn pipelines_that_cannot_be_sampled_are_errors_that_name_the_file() {
    let (golden, folder) = golden();
    let place = Place::new();
    let fail = |pipeline: &str, options: &[&str], said: &[&str]| {
        let fixed = ["sample", &path(&folder, pipeline), "--steps", "2", "--out", "out"];
        let all = [&fixed[..], options].concat();
        let output = place.run(&all);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{all:?}");
        assert!(said.iter().all(|s| error.contains(s)), "{all:?}: {error}");
        assert!(!place.path("out").exists(), "{all:?} leaves something behind");
    };
    fail("sd", &[], &["--prompt"]);
    fail("ddpm", &["--prompt", "a"], &["--prompt", "DDPMPipeline"]);
    fail("dit", &["--class", "unicorn"], &["--class", "unicorn", "999"]);
    fail("dit", &["--class", "1000"], &["--class", "1000"]);
    let long = "the cat ".repeat(9);
    fail("sd", &["--prompt", &long], &["--prompt", "20 tokens", "12"]);
    fail("sd", &["--prompt", "a", "--size", "15x16"], &["--size", "15", "2"]);
    fail("control", &["--prompt", "a"], &["--control"]);
    let hint = path(&folder, "hint.png");
    fail("sd", &["--prompt", "a", "--control", &hint], &["--control-net"]);
    fail(
        "control",
        &["--prompt", "a", "--size", "32x32", "--control", &hint],
        &["hint.png", "16x16", "32x32"],
    );
    let net = path(&folder, "sd/unet");
    let other = ["--prompt", "a", "--size", "16x16", "--control", &hint, "--control-net", &net];
    fail("sd", &other, &["unet", "UNet2DConditionModel", "ControlNetModel"]);
    let lora = path(&folder, "lora/pytorch_lora_weights.safetensors");
    fail("dit", &["--class", "3", "--lora", &lora], &["pytorch_lora_weights.safetensors", "transformer"]);
    let short = noise(&place, &golden, "dit");
    fail("dit", &["--class", "3", "--n", "3", "--noise", &short], &["--noise", "3"]);
    fail("ddpm", &["--n", "2", "--noise", &short], &["steps"]);

    // A class that is not covered, a part of another class, a part that is missing.
    let changed = |name: &str, from: &str, to: &str| {
        let copy = place.path(name);
        let done = std::process::Command::new("cp").arg("-r").arg(folder.join("sd")).arg(&copy).status();
        assert!(done.unwrap().success());
        let index = copy.join("model_index.json");
        let text = std::fs::read_to_string(&index).unwrap();
        assert!(text.contains(from));
        std::fs::write(&index, text.replace(from, to)).unwrap();
        copy.to_string_lossy().into_owned()
    };
    let fail_at = |model: &str, said: &[&str]| {
        place.fail(&["sample", model, "--prompt", "a", "--out", "out"], 1, said);
    };
    let model = changed("flux", "\"StableDiffusionPipeline\"", "\"FluxPipeline\"");
    fail_at(&model, &["model_index.json", "FluxPipeline", "StableDiffusionPipeline"]);
    let model = changed("temporal", "\"AutoencoderKL\"", "\"AutoencoderKLTemporalDecoder\"");
    fail_at(&model, &["vae", "AutoencoderKLTemporalDecoder", "AutoencoderKL"]);
    let model = changed("pickled", "\"AutoencoderKL\"", "\"AutoencoderKL\"");
    let weights = |ending: &str| place.path(&format!("pickled/vae/diffusion_pytorch_model.{ending}"));
    std::fs::rename(weights("safetensors"), weights("bin")).unwrap();
    fail_at(&model, &["pickled/vae", "is a pickle", "weights_only=True"]);
    let model = changed("headless", "\"StableDiffusionPipeline\"", "\"StableDiffusionPipeline\"");
    std::fs::remove_dir_all(place.path("headless/vae")).unwrap();
    fail_at(&model, &["headless/vae", "missing"]);
}

/// A trained arm leaves with its scheduler, and is sampled from the folder.
#[test]
fn a_trained_arm_leaves_as_a_pipeline() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run", "--set", "train.steps=2"]);
    let arm = "run/arms/base-seed0";
    let said = place.succeed(&["export", arm, "--out", "pipe", "--pipeline"]);
    assert!(said.contains("DDPMPipeline"), "{said}");
    let index = super::json(&place.path("pipe/model_index.json"));
    assert_eq!(index["unet"], serde_json::json!(["diffusers", "UNet2DModel"]));
    assert_eq!(index["scheduler"], serde_json::json!(["diffusers", "DDPMScheduler"]));
    assert_eq!(super::json(&place.path("pipe/unet/config.json"))["sample_size"], 8);
    let scheduler = super::json(&place.path("pipe/scheduler/scheduler_config.json"));
    let says =
        ["num_train_timesteps", "prediction_type", "clip_sample", "beta_schedule"].map(|f| &scheduler[f]);
    assert_eq!(serde_json::json!(says), serde_json::json!([100, "v_prediction", true, "squaredcos_cap_v2"]));
    // Another takes its place, and a folder with anything else is left alone.
    place.succeed(&["export", arm, "--out", "pipe", "--pipeline"]);
    place.succeed(&["sample", "pipe", "--n", "2", "--steps", "3", "--out", "images"]);
    assert_eq!(image::open(place.path("images/00001.png")).unwrap().width(), 8);
    std::fs::write(place.path("pipe/notes.txt"), "mine").unwrap();
    place.fail(&["export", arm, "--out", "pipe", "--pipeline"], 1, &["pipe", "notes.txt"]);

    let refused = |sets: &[&str], words: &[&str]| {
        let train = ["train", "tiny.toml", "--out", "other", "--set", "train.steps=1"];
        place.succeed(&[&train[..], sets].concat());
        place.fail(&["export", "other/arms/base-seed0", "--out", "out", "--pipeline"], 2, words);
        std::fs::remove_dir_all(place.path("other")).unwrap();
    };
    let flow = [
        "--set",
        "schedule={kind=\"flow\"}",
        "--set",
        "objective={prediction=\"velocity\",weighting={kind=\"constant\"}}",
    ];
    refused(&flow, &["schedule", "--pipeline"]);
    let edm = ["--set", "objective.prediction={edm={sigma_data=0.5}}"];
    refused(&edm, &["--pipeline", "edm"]);
}
