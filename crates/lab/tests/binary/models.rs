//! Models from outside and to the outside: describe, forward, export.

use super::{Place, json};
use serde_json::Value;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

fn described(place: &Place, args: &[&str]) -> Value {
    serde_json::from_str(&place.succeed(&[&["describe", "--json"], args].concat())).unwrap()
}

/// The numbers of the papers and of the published folders, without a network in memory.
#[test]
fn presets_have_the_published_sizes() {
    let place = Place::new();
    for (name, trainable, billions) in [
        ("dit-s-2", 32_865_056i64, Some(6.06)),
        ("dit-b-2", 130_315_808, Some(23.01)),
        ("dit-l-2", 457_840_672, Some(80.70)),
        ("dit-xl-2", 674_834_720, Some(118.62)),
        ("dit-s-4", 32_920_448, None),
        ("dit-s-8", 33_142_016, None),
        ("dit-xl-4", 675_000_704, None),
        ("dit-xl-8", 675_664_640, None),
        ("sd-1.5-unet", 859_520_964, Some(401.64)),
        ("sd-2.1-unet", 865_910_724, Some(1074.55)),
        ("sdxl-unet", 2_567_463_684, Some(3380.62)),
        ("ddpm-cifar10", 35_746_307, Some(6.22)),
    ] {
        let found = described(&place, &[name]);
        assert_eq!(found["trainable_parameters"], trainable, "{name}");
        let of_blocks = found["blocks"].as_array().unwrap().iter().map(|b| b["parameters"].as_u64().unwrap());
        assert_eq!(of_blocks.sum::<u64>(), found["parameters"].as_u64().unwrap(), "{name}");
        if let Some(billions) = billions {
            let rounded = (found["multiply_adds"].as_f64().unwrap() / 1e7).round() / 100.0;
            assert_eq!(rounded, billions, "{name}");
        }
        let memory = &found["training_memory"];
        assert!(memory["total"].as_u64().unwrap() > 16 * trainable as u64, "{memory}");
    }
    for (name, parameters, latent) in [
        ("vae-kl-f8", 83_653_863i64, Some([4, 64, 64])),
        ("vq-f4", 55_322_782, Some([3, 64, 64])),
        ("taesd", 2_445_063, Some([4, 64, 64])),
        ("sd-1.5-controlnet", 361_279_120, None),
    ] {
        let found = described(&place, &[name]);
        assert_eq!(found["trainable_parameters"], parameters, "{name}");
        assert!(found["effective_receptive_field"].is_null());
        match latent {
            Some(shape) => {
                assert_eq!(found["latent"]["shape"], serde_json::json!(shape), "{name}");
                let passes =
                    ["encode_multiply_adds", "decode_multiply_adds"].map(|p| found["latent"][p].as_u64());
                let sum = passes.into_iter().map(|pass| pass.filter(|n| *n > 0).unwrap()).sum::<u64>();
                assert_eq!(found["multiply_adds"], sum, "{name}");
            }
            None => assert!(found.get("latent").is_none()),
        }
    }
    assert!(place.succeed(&["describe", "vae-kl-f8"]).contains("0.18215"));
    place.fail(&["describe", "vae-kl-f8", "--size", "63"], 2, &["--size"]);
    place.fail(&["describe", "sd-1.5-controlnet", "--size", "63"], 2, &["--size", "63x63"]);

    let two = described(&place, &["dit-s-2", "--batch-size", "2"]);
    let one = described(&place, &["dit-s-2"]);
    let activations = |v: &Value| v["training_memory"]["activations"].as_u64().unwrap();
    assert_eq!(activations(&two), 2 * activations(&one));
    assert!(place.succeed(&["describe", "list"]).lines().any(|l| l == "dit-xl-8"));
    place.fail(&["describe", "dit-s-3"], 2, &["dit-s-3", "dit-s-2"]);
    place.fail(&["describe", "sd-1.5-unet", "--size", "63"], 2, &["--size", "63x63"]);
}

/// A trained model leaves as a folder of diffusers, which runs here, keeps its numbers, and is described.
#[test]
fn a_trained_model_leaves_as_a_folder() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let said = place.succeed(&["export", "run/arms/base-seed0", "--out", "model"]);
    assert!(said.contains("UNet2DModel"), "{said}");
    assert_eq!(json(&place.path("model/config.json"))["_class_name"], "UNet2DModel");
    place.succeed(&["export", "model", "--out", "again"]);
    let weights =
        |folder: &str| std::fs::read(place.path(folder).join("diffusion_pytorch_model.safetensors")).unwrap();
    assert_eq!(weights("model"), weights("again"));

    let shape: Vec<i64> =
        serde_json::from_value(described(&place, &["model"])["sample_shape"].clone()).unwrap();
    assert!(described(&place, &["model"])["effective_receptive_field"]["radius"].as_f64().unwrap() > 0.5);
    let sample = Tensor::randn([&[2], &shape[..]].concat(), (Kind::Float, Device::Cpu));
    let write = |name: &str, tensors: &[(&str, &Tensor)]| {
        Tensor::write_safetensors(tensors, place.path(name)).unwrap();
    };
    let steps = Tensor::from_slice(&[3i64, 900]);
    write("in.safetensors", &[("sample", &sample), ("timestep", &steps)]);
    let run = ["forward", "model", "--input", "in.safetensors", "--output", "o.safetensors", "--gradients"];
    place.succeed(&run);
    let made: BTreeMap<String, Tensor> =
        Tensor::read_safetensors(place.path("o.safetensors")).unwrap().into_iter().collect();
    assert_eq!(made["sample"].size(), sample.size());
    assert_eq!(made["grad.sample"].size(), sample.size());
    // The gradient of the mean square along the last bias is twice the mean of the output over its places.
    let mean = made["sample"].sum(Kind::Float) * 2.0 / made["sample"].numel() as f64;
    let off = (made["grad.conv_out.bias"].sum(Kind::Float) - mean).abs().double_value(&[]);
    assert!(off < 1e-5, "{off}");

    let forward = |input: &'static str| ["forward", "model", "--input", input, "--output", "out"];
    write("lone.safetensors", &[("sample", &sample)]);
    write("odd.safetensors", &[("sample", &sample), ("timestep", &steps), ("samples", &steps)]);
    write("wide.safetensors", &[("sample", &sample.repeat([1, 3, 1, 1])), ("timestep", &steps)]);
    place.fail(&forward("lone.safetensors"), 1, &["lone.safetensors", "timestep", "missing"]);
    place.fail(&forward("odd.safetensors"), 1, &["samples", "is no input"]);
    place.fail(&forward("wide.safetensors"), 1, &["sample", "[2, 3,"]);
    place.fail(&forward("none.safetensors"), 1, &["none.safetensors", "is not there"]);
    std::fs::write(place.path("model/config.json"), "{\"_class_name\": \"AutoencoderDC\"}").unwrap();
    place.fail(&forward("in.safetensors"), 1, &["AutoencoderDC", "UNet2DConditionModel", "ControlNetModel"]);
}

/// A recipe whose network cannot look up what its schedule tells it is refused before it runs.
#[test]
fn a_table_of_too_few_levels_is_refused() {
    let place = Place::new();
    let table = |levels: i64| format!("model.time_embedding={{kind=\"table\",levels={levels}}}");
    let few = ["train", "tiny.toml", "--out", "out", "--set", &table(10)];
    place.fail(&few, 2, &["model.time_embedding", "10 levels"]);
    place.succeed(&["train", "tiny.toml", "--out", "run", "--set", &table(1001)]);
}

fn golden(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pipelines").join(name);
    folder.to_string_lossy().into_owned()
}

fn read(path: &std::path::Path) -> BTreeMap<String, Tensor> {
    Tensor::read_safetensors(path).unwrap().into_iter().collect()
}

/// Parts of a pipeline are described and run for themselves, and leave as they came.
#[test]
fn autoencoders_and_control_nets_are_described_run_and_exported() {
    let place = Place::new();
    let found = described(&place, &[&golden("control")]);
    assert_eq!(found["class"], "StableDiffusionControlNetPipeline");
    let parts: BTreeMap<&str, &Value> = found["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| (part["name"].as_str().unwrap(), &part["description"]))
        .collect();
    let size = |part: &str| parts[part]["parameters"].as_u64().unwrap_or(0);
    assert!(parts["scheduler"].is_null() && parts["text_encoder"].is_null());
    assert_eq!(found["parameters"].as_u64().unwrap(), size("unet") + size("vae") + size("controlnet"));
    assert!(size("unet") > size("controlnet") && size("vae") > 0);
    assert_eq!(parts["vae"]["latent"]["scale"]["scale"], serde_json::json!([0.7]));
    let said = place.succeed(&["describe", &golden("control")]);
    assert!(said.contains("ControlNetModel") && said.contains("CLIPTextModel"), "{said}");
    place.fail(&["describe", &golden("control"), "--size", "8"], 2, &["--size"]);

    let noise = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let write = |name: &str, tensors: &[(&str, &Tensor)]| {
        Tensor::write_safetensors(tensors, place.path(name)).unwrap();
    };
    let forward = |part: &str, input: &str| {
        let model = golden(&format!("control/{part}"));
        place.succeed(&["forward", &model, "--input", input, "--output", "o", "--gradients"]);
        read(&place.path("o"))
    };
    let images = noise(&[2, 3, 16, 16]);
    write("images", &[("sample", &images)]);
    let made = forward("vae", "images");
    assert_eq!(made["moments"].size(), [2, 8, 8, 8]);
    assert_eq!(made["reconstruction"].size(), images.size());
    let mean = made["reconstruction"].sum(Kind::Float) * 2.0 / made["reconstruction"].numel() as f64;
    let off = (made["grad.decoder.conv_out.bias"].sum(Kind::Float) - mean).abs().double_value(&[]);
    assert!(off < 1e-5, "{off}");

    let (x, steps) = (noise(&[2, 4, 8, 8]), Tensor::from_slice(&[3i64, 900]));
    let (context, hint) = (noise(&[2, 5, 8]), noise(&[2, 3, 16, 16]));
    let input = [("sample", &x), ("timestep", &steps), ("encoder_hidden_states", &context), ("hint", &hint)];
    write("hinted", &input);
    write("unhinted", &input[..3]);
    let made = forward("controlnet", "hinted");
    let residuals = made.keys().filter(|name| name.starts_with("down_block_res_samples.")).count();
    assert_eq!(residuals, 4);
    assert_eq!(made["mid_block_res_sample"].size(), [2, 8, 4, 4]);
    let last = &made["mid_block_res_sample"];
    let wanted =
        last.sum_dim_intlist([0i64, 2, 3].as_slice(), false, Kind::Float) * 2.0 / last.numel() as f64;
    let off = (&made["grad.controlnet_mid_block.bias"] - wanted).abs().max().double_value(&[]);
    assert!(off < 1e-5, "{off}");

    let (vae, net) = (golden("control/vae"), golden("control/controlnet"));
    let fail = |model: &str, input: &str, words: &[&str]| {
        place.fail(&["forward", model, "--input", input, "--output", "out"], 1, words);
    };
    fail(&vae, "hinted", &["hinted", "is no input of an autoencoder"]);
    fail(&net, "unhinted", &["unhinted", "hint", "missing"]);
    write("wide", &[("sample", &noise(&[1, 4, 16, 16]))]);
    fail(&vae, "wide", &["wide", "sample"]);
    write("flat", &[("sample", &noise(&[3, 16, 16]))]);
    fail(&vae, "flat", &["flat", "[B, C, H, W]"]);

    let said = place.succeed(&["export", &net, "--out", "net"]);
    assert!(said.contains("ControlNetModel"), "{said}");
    place.succeed(&["export", &vae, "--out", "vae"]);
    for (from, to) in [(&net, "net"), (&vae, "vae")] {
        let file = "diffusion_pytorch_model.safetensors";
        let before = read(&std::path::Path::new(from).join(file));
        let after = read(&place.path(to).join(file));
        assert!(before.len() == after.len() && before.iter().all(|(name, t)| after[name].equal(t)), "{to}");
    }
    place.fail(&["export", &net, "--out", "out", "--pipeline"], 2, &["--pipeline", "trained here"]);
}
