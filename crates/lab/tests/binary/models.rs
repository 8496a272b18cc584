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
    std::fs::write(place.path("model/config.json"), "{\"_class_name\": \"AutoencoderKL\"}").unwrap();
    place.fail(&forward("in.safetensors"), 1, &["AutoencoderKL", "UNet2DConditionModel"]);
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
