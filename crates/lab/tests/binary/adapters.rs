//! Adapters in recipes: their laws through a run, what they are measured by, and bad input.

use super::kills::survives_kills;
use super::latent::{LATENT, place_with_autoencoder};
use super::schema::assert_is_valid_study;
use super::{Place, TINY, json, text, texts};
use std::fs;
use std::path::Path;
use std::process::Output;
use tch::Tensor;

const CONTROL: &str =
    r#"adapter = { kind = "control_net", base = { arm = "base" }, hint = { kind = "canny" } }"#;

/// The tiny recipe with a base and these further arms.
fn place(arms: &str) -> Place {
    let place = Place::new();
    write(&place, arms);
    place
}

fn write(place: &Place, arms: &str) {
    let few = "arms = { few = { data = { split = { n_train = 16 } } }, many = {} }";
    let (start, end) = TINY.split_once(few).expect("the tiny recipe has these arms");
    let recipe = format!("{start}{end}\n[arms.base]\n{arms}");
    fs::write(place.path("tiny.toml"), recipe).unwrap();
}

fn tensors(path: &Path) -> Vec<(String, Tensor)> {
    let mut all = Tensor::read_safetensors(path).unwrap();
    all.sort_by(|(a, _), (b, _)| a.cmp(b));
    all
}

fn weights(place: &Place, arm: &str, step: &str) -> Vec<(String, Tensor)> {
    tensors(&place.path(&format!("out/arms/{arm}/checkpoints/step-{step}/weights.safetensors")))
}

fn samples(place: &Place, arm: &str) -> Tensor {
    let all = tensors(&place.path(&format!("out/arms/{arm}/final.safetensors")));
    all.into_iter().find(|(name, _)| name == "samples").unwrap().1
}

#[track_caller]
fn says(out: &Output, words: &[&str]) {
    let stderr = text(&out.stderr);
    assert!(!out.status.success() && !stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "`{word}` is not in: {stderr}");
    }
}

/// Training that moves nothing.
const STILL: &str = "train.learning_rate.peak = 1e-30\ntrain.optimizer.weight_decay = 0.0\ntrain.steps = 1\n";

const TWO_HINTS: &str = r#"[{ kind = "canny" }, { kind = "low_pass", sigma = 1.0 }]"#;

/// At a learning rate of 0 every adapter stays as it starts, and so does what starts with the weights of another arm: its
/// samples are the base's, to the last bit.
#[test]
fn an_adapter_that_has_not_moved_samples_as_its_base() {
    let still = STILL;
    let arms = [
        ("control", format!("{still}{CONTROL}")),
        ("t2i", format!("{still}{}", CONTROL.replace("control_net", "t2i"))),
        ("two_hints", format!("{still}{}", CONTROL.replace("{ kind = \"canny\" }", TWO_HINTS))),
        ("started", format!("{still}initial_weights = {{ arm = \"base\" }}")),
        (
            "lora",
            format!(
                "{still}adapter = {{ kind = \"lora\", base = {{ arm = \"base\" }}, lora = {{ r = 2, \
                 target_modules = [\"conv1\", \"to_q\"] }} }}"
            ),
        ),
        (
            "parts",
            format!(
                "{still}adapter = {{ kind = \"decoupled\", base = {{ arm = \"base\" }}, parts = {{ colour = {{ hint = \
                 {{ kind = \"low_pass\", sigma = 2.0 }} }}, texture = {{ hint = {{ kind = \"texture\", sigma = 1.0 }} }} }} }}"
            ),
        ),
    ];
    let all: String = arms.iter().map(|(name, arm)| format!("\n[arms.{name}]\n{arm}")).collect();
    let place = place(&all);
    place.succeed(&["experiment", "tiny.toml", "--out", "out"]);
    let base = samples(&place, "base-seed0");
    for (name, _) in &arms {
        assert!(samples(&place, &format!("{name}-seed0")) == base, "{name}");
    }
    assert_is_valid_study(&place.path("out/study.json"));
    let arm = json(&place.path("out/arms/parts-seed0/arm.json"));
    let adapter = &arm["adapter"];
    assert_eq!(adapter["edge_f1"], adapter["edge_f1_unconditional"], "{adapter}");
    assert_eq!(adapter["hints"].as_array().unwrap().len(), 2, "{adapter}");
    assert_eq!(adapter["interference"][0]["nets"], serde_json::json!(["colour", "texture"]));
    assert!(json(&place.path("out/arms/lora-seed0/arm.json"))["adapter"].is_null());
    let two = &json(&place.path("out/arms/two_hints-seed0/arm.json"))["adapter"];
    let hints: Vec<_> =
        two["hints"].as_array().unwrap().iter().map(|h| h["hint"].as_str().unwrap()).collect();
    assert_eq!(hints, ["canny", "low_pass"]);
    assert!(two["diversity"].as_f64().unwrap() > 0.5, "a hint that does nothing leaves all open: {two}");
}

/// The same of a transformer, whose first blocks are copied; and it learns.
#[test]
fn a_transformer_is_controlled() {
    let place = place(&format!("\n[arms.still]\n{STILL}{CONTROL}\n\n[arms.control]\n{CONTROL}\n"));
    let model = "model={ kind = \"dit\", in_channels = 1, out_channels = 1, sample_size = 8, patch_size = 2, depth = 3, \
                 width = 16, heads = 2, num_classes = 0 }";
    place.succeed(&["experiment", "tiny.toml", "--out", "out", "--set", model]);
    assert!(samples(&place, "still-seed0") == samples(&place, "base-seed0"));
    assert!(samples(&place, "control-seed0") != samples(&place, "base-seed0"));
    let net = weights(&place, "control-seed0", "00000030");
    let has = |name: &str| net.iter().any(|(n, _)| n.starts_with(name));
    assert!(
        has("control_blocks.1.") && !has("control_blocks.2."),
        "half of the blocks are copied, and no fewer"
    );
}

/// What a locked base is has no part in the training of its adapter, whose checkpoints hold the adapter alone; an unlocked
/// base is trained, and is in them.
#[test]
fn checkpoints_hold_what_is_trained_and_the_base_stays() {
    let free = CONTROL.replace("hint =", "locked = false, hint =");
    let place = place(&format!("\n[arms.control]\n{CONTROL}\n\n[arms.free]\n{free}\n"));
    place.succeed(&["experiment", "tiny.toml", "--out", "out"]);
    let base = weights(&place, "base-seed0", "00000030");
    let net = weights(&place, "control-seed0", "00000030");
    let own = |name: &str| name.starts_with("controlnet_");
    assert!(net.iter().any(|(name, _)| own(name)));
    for (name, t) in net.iter().filter(|(name, _)| !own(name)) {
        let (_, of_base) = base.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}"));
        assert_eq!(t.size(), of_base.size());
        assert!(!name.starts_with("base.") && !name.starts_with("up_blocks"), "{name}");
    }
    let both = weights(&place, "free-seed0", "00000030");
    let mut moved = 0;
    for (name, t) in &base {
        let (_, now) = both.iter().find(|(n, _)| *n == format!("base.{name}")).unwrap();
        moved += usize::from(now != t);
    }
    assert!(moved > base.len() / 2, "{moved} of {} tensors of an unlocked base have moved", base.len());

    let arm = json(&place.path("out/arms/control-seed0/arm.json"));
    let adapter = &arm["adapter"];
    let f1 = |field: &str| adapter[field].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&f1("edge_f1")) && (0.0..=1.0).contains(&f1("edge_f1_unconditional")));
    let sensitivity = adapter["hints"][0]["sensitivity"].as_array().unwrap();
    assert_eq!(sensitivity.len(), 8);
    assert!(sensitivity.iter().all(|s| s["dropped"].as_f64().unwrap() > 0.0), "{adapter}");
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(page.contains("control seed 0: edges of samples"), "the report does not tell");

    // A photograph is followed; another one gives other images, and more samples leave the first as they were.
    let save = |name: &str, of: fn(u32, u32) -> u8| {
        let image = image::GrayImage::from_fn(8, 8, |x, y| image::Luma([of(x, y)]));
        image.save(place.path(name)).unwrap();
    };
    save("left.png", |x, _| if x < 4 { 0 } else { 255 });
    save("top.png", |_, y| if y < 4 { 0 } else { 255 });
    let sample = |control: &[&str], n: &str, out: &str| {
        let flags = control.iter().flat_map(|c| ["--control", c]);
        let args = ["sample", "out/arms/control-seed0", "--n", n, "--out", out];
        place.succeed(&args.into_iter().chain(flags).collect::<Vec<_>>());
    };
    sample(&["left.png"], "2", "left");
    sample(&["top.png"], "2", "top");
    sample(&["left.png", "top.png"], "3", "both");
    let read = |path: &str| fs::read(place.path(path)).unwrap();
    assert_ne!(read("left/00000.png"), read("top/00000.png"));
    assert_eq!(read("both/00000.png"), read("left/00000.png"));
    assert_eq!(read("both/00001.png"), read("top/00001.png"));

    let refuse = |args: &[&str], words: &[&str]| says(&place.run(args), words);
    let with = |arm: &'static str, image: &'static str| ["sample", arm, "--out", "x", "--control", image];
    save("wide.png", |x, _| x as u8);
    image::GrayImage::new(9, 8).save(place.path("wide.png")).unwrap();
    refuse(&with("out/arms/control-seed0", "wide.png"), &["wide.png", "9x8", "8x8"]);
    refuse(&with("out/arms/control-seed0", "tiny.toml"), &["tiny.toml", "is no image"]);
    refuse(&with("out/arms/base-seed0", "left.png"), &["--control", "follows no images"]);
    refuse(&["sample", "out/arms/control-seed0", "--out", "x"], &["--control", "name one"]);
    refuse(&["export", "out/arms/control-seed0", "--out", "x"], &["control-seed0", "UNet2DConditionModel"]);
    assert!(!place.path("x").exists());
}

/// Killed at arbitrary moments and resumed, base and adapter end with the same bytes.
#[test]
fn an_adapter_that_was_killed_goes_on_to_the_last_bit() {
    let arms = format!("\n[arms.control]\n{CONTROL}\n");
    survives_kills(&place(&arms), &["experiment"], &["base-seed0", "control-seed0"]);
}

/// An adapter knows its base again by its weights.
#[test]
fn a_base_that_has_changed_is_refused() {
    let place = place(&format!("\n[arms.control]\n{CONTROL}\n"));
    place.succeed(&["experiment", "tiny.toml", "--out", "out"]);
    place.succeed(&["experiment", "tiny.toml", "--out", "other", "--seed", "1"]);
    fs::remove_dir_all(place.path("out/arms/base-seed0")).unwrap();
    fs::rename(place.path("other/arms/base-seed1"), place.path("out/arms/base-seed0")).unwrap();
    image::GrayImage::new(8, 8).save(place.path("grey.png")).unwrap();
    let sample = ["sample", "out/arms/control-seed0", "--control", "grey.png", "--out", "x"];
    says(&place.run(&sample), &["base-seed0", "another base", "control-seed0"]);
    // A run puts aside what is not its base, and makes the base again.
    fs::remove_file(place.path("out/arms/control-seed0/arm.json")).unwrap();
    place.succeed(&["experiment", "--resume", "out"]);
    assert_eq!(fs::read_dir(place.path("out/superseded")).unwrap().count(), 1);
    place.succeed(&sample);
}

/// A base that is named by its folder brings its network, which the recipe need not say; a model folder does as well, and a
/// ControlNet and a LoRA of it become files of diffusers.
#[test]
fn a_base_in_a_folder_brings_its_model_and_adapters_are_exported() {
    let (place, _) = texts::place();
    place.succeed(&["experiment", "tiny.toml", "--out", "base"]);
    place.succeed(&["export", "base/arms/base-seed0", "--out", "unet"]);
    let recipe = fs::read_to_string(place.path("tiny.toml")).unwrap();
    let without_model: Vec<&str> = recipe.lines().filter(|line| !line.starts_with("model=")).collect();
    let recipe = without_model.join("\n");
    for (folder, kind, file, words) in [
        (
            "unet",
            "kind = \"control_net\", hint = { kind = \"sobel\" }",
            "diffusion_pytorch_model.safetensors",
            ["controlnet_mid_block.weight", "controlnet_cond_embedding.conv_in.weight"],
        ),
        (
            "base/arms/base-seed0",
            "kind = \"lora\", lora = { r = 2, target_modules = [\"conv1\"] }",
            "pytorch_lora_weights.safetensors",
            [
                "unet.down_blocks.0.resnets.0.conv1.lora_A.weight",
                "unet.down_blocks.0.resnets.0.conv1.lora_B.weight",
            ],
        ),
    ] {
        let arms = format!("arms = {{ adapted = {{ adapter = {{ base = \"{folder}\", {kind} }} }} }}");
        let adapted = recipe.replace("arms = { base = {} }", &arms);
        fs::write(place.path("adapted.toml"), adapted).unwrap();
        place.succeed(&["experiment", "adapted.toml", "--out", "run"]);
        place.succeed(&["export", "run/arms/adapted-seed0", "--out", "exported"]);
        let names: Vec<String> =
            tensors(&place.path(&format!("exported/{file}"))).into_iter().map(|(name, _)| name).collect();
        assert!(words.iter().all(|word| names.iter().any(|name| name == word)), "{names:?}");
        for folder in ["run", "exported"] {
            fs::remove_dir_all(place.path(folder)).unwrap();
        }
    }
}

/// A model of latents follows hints of the images in pixels, which are of twice the latents' sides here.
#[test]
fn latents_follow_hints_of_pixels() {
    let place = place_with_autoencoder();
    write(&place, &format!("\n[arms.control]\n{CONTROL}\n"));
    place.succeed(&[&["experiment", "tiny.toml", "--out", "out"], &LATENT[..]].concat());
    let arm = json(&place.path("out/arms/control-seed0/arm.json"));
    assert!(arm["adapter"]["hints"][0]["sensitivity"][0]["dropped"].as_f64().unwrap() > 0.0, "{arm}");
    let embedding = "controlnet_cond_embedding.blocks.1.weight";
    let net = weights(&place, "control-seed0", "00000030");
    assert!(net.iter().any(|(name, _)| name == embedding), "no layer halves the hint");

    let flips = "regularization.augment=[{ kind = \"flip\" }]";
    let args = [&["experiment", "tiny.toml", "--out", "x", "--set", flips], &LATENT[..]].concat();
    says(&place.run(&args), &["adapter.regularization.augment"]);
}

#[test]
fn adapters_that_cannot_be_are_usage_errors_that_name_the_field() {
    let place = Place::new();
    let refuse = |arms: &str, words: &[&str]| {
        write(&place, arms);
        place.fail(&["experiment", "tiny.toml", "--out", "out"], 2, words);
    };
    let control = |change: &str, arms: &str| format!("\n[arms.control]\n{change}{CONTROL}\n{arms}");
    refuse(&control("model.block_out_channels = [8, 16]\n", ""), &["model", "base"]);
    refuse(&control("schedule.steps = 50\n", ""), &["schedule", "base"]);
    refuse(&control("objective.prediction = \"epsilon\"\n", ""), &["objective.prediction", "base"]);
    let other = |from: &str, to: &str| format!("\n[arms.control]\n{}\n", CONTROL.replace(from, to));
    refuse(&other("arm = \"base\"", "arm = \"nonesuch\""), &["adapter.base.arm", "nonesuch", "base"]);
    refuse(&other("\"canny\"", "\"canny\", sigma = -1.0"), &["adapter.hint.sigma", "-1"]);
    refuse(&other("\"canny\"", "\"motion\""), &["adapter.hint", "motion"]);
    refuse(&other("hint =", "blocks = 1, hint ="), &["adapter.blocks"]);
    refuse(&other("hint =", "embedding_channels = [8, 8], hint ="), &["adapter.embedding_channels", "8, 8"]);
    refuse(&other("hint =", "nonesuch = 1, hint ="), &["adapter", "nonesuch"]);
    refuse(&other("{ kind = \"canny\" }", "{ kind = \"palette\", cell = 3 }"), &["palette", "8x8", "3"]);
    let lora = |lora: &str| {
        format!("\n[arms.l.adapter]\nkind = \"lora\"\nbase = {{ arm = \"base\" }}\nlora = {lora}\n")
    };
    refuse(&lora("{ r = 0, target_modules = [\"conv1\"] }"), &["adapter.lora.r", "0"]);
    refuse(
        &lora("{ target_modules = [\"nonesuch\"] }"),
        &["adapter.lora.target_modules", "nonesuch", "conv1"],
    );
    let parts = |parts: &str| {
        format!("\n[arms.d.adapter]\nkind = \"decoupled\"\nbase = {{ arm = \"base\" }}\nparts = {parts}\n")
    };
    refuse(&parts("{}"), &["adapter.parts", "colour"]);
    refuse(&parts("{ form = { hint = { kind = \"sobel\" } } }"), &["adapter.parts.form", "structure"]);
    refuse(&control("data.filter = { glasses = \"any\" }\n", ""), &["data.filter", "digits"]);

    let twice =
        format!("\n[arms.one]\n{CONTROL}\n\n[arms.two]\n{}\n", CONTROL.replace("\"base\"", "\"one\""));
    refuse(&twice, &["adapter.base", "is an adapter itself"]);
}
