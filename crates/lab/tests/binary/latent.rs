//! Autoencoders, and diffusion of their latents.

use super::schema::assert_is_valid_study;
use super::{Place, json};
use std::fs;

/// An autoencoder that trains in seconds, on the digits that ship.
const AUTOENCODER: &str = r#"
name = "small"
seed = 0
data = { name = "digits", split = { held_out = 64, n_train = 500, seed = 0 } }
objective = { kl_weight = 1e-4 }
validation = { every = 20, images = 64, batch_size = 32 }
checkpoint = { every = 10, keep = 2 }

[autoencoder]
_class_name = "AutoencoderKL"
in_channels = 1
out_channels = 1
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
block_out_channels = [8, 8]
latent_channels = 2
norm_num_groups = 4
scaling_factor = 1.0
mid_block_add_attention = false

[train]
steps = 40
batch_size = 16
optimizer = { kind = "adam_w", betas = [0.9, 0.99], eps = 1e-8, weight_decay = 0.0 }
learning_rate = { peak = 5e-3, warmup_steps = 5, decay = "cosine" }
non_finite = "stop"
log_every = 10
"#;

pub(super) const LATENT: [&str; 6] = [
    "--set",
    "latent.autoencoder=\"small/autoencoder\"",
    "--set",
    "model.in_channels=2",
    "--set",
    "model.out_channels=2",
];

pub(super) fn place_with_autoencoder() -> Place {
    let place = Place::new();
    fs::write(place.path("small.toml"), AUTOENCODER).unwrap();
    place.succeed(&["train-autoencoder", "small.toml", "--out", "small"]);
    place
}

/// From images to an autoencoder with latents of unit variance, to a model of its latents, to samples.
#[test]
fn latents_of_a_trained_autoencoder_are_diffused() {
    let place = place_with_autoencoder();
    let result = json(&place.path("small/autoencoder.json"));
    assert!(result["held_out"]["psnr"].as_f64().unwrap() > 8.0, "{result}");
    for std in result["scaled_held_out_latents"]["std"].as_array().unwrap() {
        assert!((std.as_f64().unwrap() - 1.0).abs() < 0.3, "{result}");
    }
    assert_eq!(json(&place.path("small/autoencoder/config.json"))["_class_name"], "AutoencoderKL");
    assert!(place.path("small/reconstructions.png").is_file());

    let cached = ["train", "tiny.toml", "--out", "cached", "--set", "latent.cache=\"latents\""];
    place.succeed(&[&cached[..], &LATENT].concat());
    assert_is_valid_study(&place.path("cached/study.json"));
    let arm = json(&place.path("cached/arms/base-seed0/arm.json"));
    assert!(arm["latent"]["psnr"].as_f64().unwrap() > 8.0, "{arm}");
    assert!(arm["latent"]["f_mem"]["floor"]["value"].is_number(), "{arm}");
    assert!(fs::read_to_string(place.path("cached/report.html")).unwrap().contains("among latents"));
    let kept: Vec<String> = fs::read_dir(place.path("latents"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(kept.contains(&"train-500".to_owned()) && kept.contains(&"held-out-64".to_owned()), "{kept:?}");
    // Encoded anew every time, it is the same run to the last bit.
    let anew = ["train", "tiny.toml", "--out", "anew", "--set", "latent.cached=false"];
    place.succeed(&[&anew[..], &LATENT].concat());
    let samples = |run: &str| fs::read(place.path(run).join("arms/base-seed0/final.safetensors")).unwrap();
    assert_eq!(samples("cached"), samples("anew"));

    place.succeed(&["sample", "cached/arms/base-seed0", "--n", "3", "--out", "samples"]);
    let image = image::open(place.path("samples/00002.png")).unwrap();
    assert_eq!((image.width(), image.height()), (8, 8));
}

/// A run of an autoencoder that was cut goes on, and other recipes do not go into its folder.
#[test]
fn autoencoders_that_cannot_be_used_are_errors() {
    let place = place_with_autoencoder();
    // The same command again finds all steps done.
    let said = place.succeed(&["train-autoencoder", "small.toml", "--out", "small"]);
    assert!(said.contains("PSNR"), "{said}");
    let other = ["train-autoencoder", "small.toml", "--out", "small", "--set", "seed=1"];
    place.fail(&other, 1, &["small", "--out"]);
    let noise = ["--set", "regularization.noise=[{kind=\"offset\",scale=0.1}]"];
    place.fail(
        &[&["train-autoencoder", "small.toml", "--out", "x"], &noise[..]].concat(),
        2,
        &["regularization.noise"],
    );
    let repeated = ["--set", "data.repeat=[{images=2,times=4}]"];
    place.fail(
        &[&["train-autoencoder", "small.toml", "--out", "x"], &repeated[..]].concat(),
        2,
        &["data.repeat", "autoencoder"],
    );

    fn train<'a>(more: &[&'a str]) -> Vec<&'a str> {
        [&["train", "tiny.toml", "--out", "out"], more].concat()
    }
    place.fail(&train(&LATENT[..2]), 2, &["in_channels"]);
    place.fail(&train(&["--set", "latent.autoencoder=\"nowhere\""]), 1, &["nowhere"]);
    // Latents of one autoencoder are not those of another.
    place.succeed(
        &[&train(&LATENT)[..], &["--set", "latent.cache=\"latents\"", "--set", "train.steps=1"]].concat(),
    );
    place.succeed(&["train-autoencoder", "small.toml", "--out", "second", "--set", "train.steps=20"]);
    fs::remove_dir_all(place.path("out")).unwrap();
    let mixed =
        train(&["--set", "latent.cache=\"latents\"", "--set", "latent.autoencoder=\"second/autoencoder\""]);
    place.fail(&[&mixed[..], &LATENT[2..]].concat(), 1, &["latents", "second", "remove"]);
    place.fail(&train(&["--set", "latent={autoencoder=\"pixel-faces\",copies=2}"]), 2, &["latent.copies"]);
    let told = "latent={autoencoder=\"second/autoencoder\",augment=[{kind=\"mixup\",alpha=0.2}]}";
    place.fail(&train(&["--set", told]), 2, &["latent.augment[0]", "cached"]);
}

/// A transformer of latents leaves with its autoencoder, and is sampled by class from the folder.
#[test]
fn a_transformer_of_latents_leaves_as_a_pipeline() {
    let place = place_with_autoencoder();
    let dit = "model={kind=\"DiTTransformer2DModel\",num_attention_heads=2,attention_head_dim=4,in_channels=2,\
               out_channels=2,num_layers=1,sample_size=4,patch_size=2,num_embeds_ada_norm=10}";
    let train = ["train", "tiny.toml", "--out", "run", "--set", dit, "--set", "train.steps=2"];
    place.succeed(
        &[&train[..], &LATENT[..2], &["--set", "sample.grid={kind=\"trailing\",train_steps=100}"]].concat(),
    );
    let said = place.succeed(&["export", "run/arms/base-seed0", "--out", "pipe", "--pipeline"]);
    assert!(said.contains("DiTPipeline"), "{said}");
    let index = json(&place.path("pipe/model_index.json"));
    assert_eq!(index["vae"], serde_json::json!(["diffusers", "AutoencoderKL"]));
    assert_eq!(index["scheduler"], serde_json::json!(["diffusers", "DDIMScheduler"]));
    let vae = json(&place.path("pipe/vae/config.json"));
    assert!(vae["shift_factor"].is_null() && vae["latents_mean"].is_null(), "{vae}");
    let scheduler = json(&place.path("pipe/scheduler/scheduler_config.json"));
    assert_eq!(scheduler["timestep_spacing"], "trailing");
    place.succeed(&["sample", "pipe", "--class", "3", "--steps", "4", "--n", "2", "--out", "images"]);
    assert_eq!(image::open(place.path("images/00001.png")).unwrap().width(), 8);
}
