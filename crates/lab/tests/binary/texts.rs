//! Texts through the binary: captions beside images, models that are told of them, and guidance by a CLIP.

use super::kills::survives_kills;
use super::pipelines::{golden, path};
use super::{Place, json, last_checkpoint};
use heldout_core::FeatureExtractor;
use heldout_features::{ClipText, ClipTokenizer, ClipVision, Truncation};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

const CAPTIONS: [&str; 4] = ["a photo of the cat", "the photo's cat", "cats", "the 9"];

/// A model of 8x8 grey images that takes texts.
const MODEL: &str = "model={kind=\"UNet2DConditionModel\",in_channels=1,out_channels=1,block_out_channels=[8,8],\
    down_block_types=[\"CrossAttnDownBlock2D\",\"DownBlock2D\"],up_block_types=[\"UpBlock2D\",\"CrossAttnUpBlock2D\"],\
    layers_per_block=1,cross_attention_dim=8,attention_head_dim=2,norm_num_groups=4}";

/// How it is trained.
fn recipe(folder: &Path) -> String {
    let encoder = path(folder, "sd/text_encoder");
    format!(
        r#"
name = "told"
question = "Does a model do as it is told?"
seeds = [0]
arms = {{ base = {{}} }}
data = {{ name = "captioned", split = {{ held_out = 16, n_train = 40, seed = 0 }} }}
text = {{ encoder = {encoder:?}, dropout = 0.5 }}
{MODEL}
schedule = {{ kind = "cosine", steps = 100 }}
objective = {{ prediction = "v", weighting = {{ kind = "constant" }} }}
sample = {{ sampler = {{ kind = "ddim", eta = 0.0 }}, steps = 3, samples = 6, batch_size = 4 }}
monitor = {{ every = 10, samples = 4, sampling_steps = 2 }}
checkpoint = {{ every = 5, keep = 3 }}
validation = {{ every = 10, images = 8, log_snr = [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0] }}

[train]
steps = 15
batch_size = 8
optimizer = {{ kind = "adam_w", betas = [0.9, 0.99], eps = 1e-8, weight_decay = 0.01 }}
learning_rate = {{ peak = 2e-3, warmup_steps = 2, decay = "cosine" }}
non_finite = "stop"
log_every = 7
"#
    )
}

/// Images of four kinds in the folder `captioned`, each kind with its own caption.
fn write_captioned(place: &Place) {
    fs::create_dir(place.path("captioned")).unwrap();
    let mut lines = String::new();
    for i in 0..64u32 {
        let kind = i % 4;
        let shade = |x: u32, y: u32| {
            let bright = if kind < 2 { x / 4 == kind } else { y / 4 == kind - 2 };
            image::Luma([if bright { 255 - i as u8 } else { i as u8 }])
        };
        image::GrayImage::from_fn(8, 8, shade).save(place.path(&format!("captioned/{i:02}.png"))).unwrap();
        lines += &format!("{{\"file_name\": \"{i:02}.png\", \"text\": {:?}}}\n", CAPTIONS[kind as usize]);
    }
    fs::write(place.path("captioned/metadata.jsonl"), lines).unwrap();
}

/// What the fragment of the alignment with texts needs: captioned images, a model that takes texts, and a CLIP.
pub(super) fn for_alignment(place: &Place) -> Vec<String> {
    let folder = golden().1;
    write_captioned(place);
    fs::create_dir_all(place.path("runs/clip")).unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(folder.join("clip").join(file), place.path("runs/clip").join(file)).unwrap();
    }
    let text = format!("text={{encoder={:?}}}", path(&folder, "sd/text_encoder"));
    let data = ["data.name=captioned", "data.split.n_train=16", "data.split.held_out=16", MODEL];
    data.into_iter().map(str::to_owned).chain([text]).collect()
}

/// The captioned images and the recipe, as `tiny.toml`.
pub(super) fn place() -> (Place, PathBuf) {
    let (place, (_, folder)) = (Place::new(), golden());
    write_captioned(&place);
    fs::write(place.path("tiny.toml"), recipe(&folder)).unwrap();
    (place, folder)
}

fn read(place: &Place, name: &str) -> Vec<u8> {
    fs::read(place.path(name)).unwrap()
}

/// Trained, resumed and sampled with texts: another prompt is another image, and the prompts of a run are those of its
/// held-out images.
#[test]
fn a_model_of_texts_is_trained_and_sampled() {
    let (place, _) = place();
    let said = place.succeed(&["dataset", "captioned"]);
    assert!(said.contains("captions    64, 4 of them different"), "{said}");
    survives_kills(&place, &["train"], &["base-seed0"]);
    let arm = "whole/arms/base-seed0";
    let kept = json(&place.path(&format!("{arm}/prompts.json")));
    let kept: Vec<&str> = kept.as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert!(kept.len() == 16 && kept.iter().all(|p| CAPTIONS.contains(p)), "{kept:?}");

    let sample = |out: &str, more: &[&str]| {
        place.succeed(&[&["sample", arm, "--n", "3", "--out", out], more].concat());
    };
    let second =
        |prompt: &str| ["--prompt", kept[0], "--prompt", prompt, "--prompt", kept[2]].map(str::to_owned);
    let given = |prompt: &str| second(prompt).to_vec();
    let with = |out: &str, prompt: &str, more: &[&str]| {
        let prompts = given(prompt);
        sample(out, &prompts.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>());
    };
    sample("default", &[]);
    with("same", kept[1], &[]);
    let other = CAPTIONS.iter().find(|c| **c != kept[1]).unwrap();
    with("other", other, &[]);
    with("guided", kept[1], &["--guidance", "4"]);
    for (i, [same, changed]) in [[true, false], [true, true], [true, false]].into_iter().enumerate() {
        let name = |folder: &str| read(&place, &format!("{folder}/{i:05}.png"));
        assert_eq!(name("default") == name("same"), same, "image {i}");
        assert_eq!(name("default") != name("other"), changed, "image {i}");
    }
    assert!((0..3).any(|i| {
        let name = |folder: &str| read(&place, &format!("{folder}/{i:05}.png"));
        name("guided") != name("same")
    }));

    // Dropped or not, captions change what is learned; the same share the same.
    let train = |out: &str, dropout: &str| {
        place.succeed(&["train", "tiny.toml", "--out", out, "--set", &format!("text.dropout={dropout}")]);
        last_checkpoint(&place.path(out), "base-seed0")
    };
    let (none, some) = (train("none", "0.0"), train("some", "0.5"));
    let weights =
        |files: &[(String, Vec<u8>)]| files.iter().find(|f| f.0 == "weights.safetensors").unwrap().1.clone();
    assert_ne!(weights(&none), weights(&some));
    assert_eq!(weights(&some), weights(&last_checkpoint(&place.path("whole"), "base-seed0")));
}

/// The alignment with texts takes part in training, also of latents, and is in the log; with guidance by the recipe.
#[test]
fn a_model_is_aligned_with_texts() {
    let (place, folder) = place();
    let aligned = format!(
        "regularization.penalty=[{{weight=0.5,term={{kind=\"text_alignment\",clip={:?},min_log_snr=-2.0}}}}]",
        path(&folder, "clip")
    );
    let settings = ["--set", &aligned, "--set", "text.guidance=2.0", "--set", "text.prompts=[\"cats\"]"];
    place.succeed(&[&["train", "tiny.toml", "--out", "run"], &settings[..]].concat());
    let log = fs::read_to_string(place.path("run/metrics.jsonl")).unwrap();
    assert!(log.contains("text_alignment"), "{log}");
    assert_eq!(json(&place.path("run/arms/base-seed0/prompts.json")), serde_json::json!(["cats"]));
}

#[test]
fn texts_that_cannot_be_told_are_errors() {
    let (place, folder) = place();
    let says = |status: i32, sets: &[&str], words: &[&str]| {
        let sets: Vec<&str> = sets.iter().flat_map(|set| ["--set", set]).collect();
        place.fail(&[&["train", "tiny.toml", "--out", "out"], &sets[..]].concat(), status, words);
    };
    says(2, &["data.name=digits"], &["text", "captions", "metadata.jsonl"]);
    says(2, &["model.cross_attention_dim=16"], &["text.encoder", "8", "16", "cross_attention_dim"]);
    says(2, &["text.dropout=1.0"], &["text.dropout: 1"]);
    let unconditional = "model={kind=\"unet\",in_channels=1,out_channels=1,block_out_channels=[8],layers_per_block=1,\
        attention=[false],mid_attention=false,attention_head_dim=4,norm_num_groups=4,norm_eps=1e-5,dropout=0.0}";
    says(2, &[unconditional], &["text.encoder", "takes no texts"]);
    says(1, &["text.encoder=nowhere"], &["nowhere"]);
    let clip = path(&folder, "clip");
    let aligned = |clip: &str| {
        format!("regularization.penalty=[{{weight=1.0,term={{kind=\"text_alignment\",clip={clip:?}}}}}]")
    };
    says(1, &[&aligned("nowhere")], &["nowhere"]);
    let long = "the cat ".repeat(9);
    says(2, &[&format!("text.prompts=[\"cat\",{long:?}]")], &["text.prompts[1]", "20 tokens", "12"]);

    // Weights of a text encoder without tokens; a tower without its projection.
    let copy = |from: &str, to: &str, files: &[&str]| {
        fs::create_dir(place.path(to)).unwrap();
        for file in files {
            fs::copy(folder.join(from).join(file), place.path(to).join(file)).unwrap();
        }
    };
    copy("sd/text_encoder", "alone", &["config.json", "model.safetensors"]);
    says(1, &["text.encoder=alone"], &["alone", "tokenizer.json", "vocab.json"]);
    copy("sd/tokenizer", "tokenizer", &["tokenizer.json"]);
    says(1, &[&aligned("alone")], &["alone", "text_projection"]);

    let metadata = place.path("captioned/metadata.jsonl");
    let lines = fs::read_to_string(&metadata).unwrap();
    fs::write(&metadata, lines.replacen(CAPTIONS[1], &long, 1)).unwrap();
    says(1, &[], &["metadata.jsonl: line 2", "20 tokens", "12"]);
    fs::write(&metadata, &lines).unwrap();

    // What a model that was trained without texts cannot be asked.
    fs::write(place.path("plain.toml"), super::TINY).unwrap();
    place.succeed(&["train", "plain.toml", "--out", "plain", "--set", "train.steps=1"]);
    let ask = |more: &[&str], status: i32, words: &[&str]| {
        place.fail(&[&["sample", "plain/arms/base-seed0", "--out", "out"], more].concat(), status, words);
    };
    ask(&["--prompt", "a"], 2, &["--prompt", "--clip"]);
    ask(&["--noise", "noise.safetensors"], 2, &["--noise", "model_index.json"]);
    ask(&["--size", "8x8"], 2, &["--size", "model_index.json"]);
    ask(&["--guidance", "2"], 2, &["--guidance", "without texts"]);
    ask(&["--clip", &clip], 2, &["--clip", "--prompt"]);
    ask(&["--clip", &clip, "--clip-views=-1", "--prompt", "a"], 2, &["--clip-views: -1"]);
    ask(&["--clip", &clip, "--prompt", &long], 2, &["--prompt", "20 tokens"]);
    ask(&["--clip", "alone", "--prompt", "a"], 1, &["alone"]);
}

/// Cosines of images `[B, C, H, W]` in `[-1, 1]` with a text, by the CLIP of the tests.
fn closeness(folder: &Path, images: &Tensor, text: &str) -> f64 {
    let clip = folder.join("clip");
    let encoder = ClipText::open(&clip, Device::Cpu).unwrap();
    let tokenizer = ClipTokenizer::open(&clip, encoder.max_length()).unwrap();
    let tokens = tokenizer.encode(&[text], Truncation::Refuse).unwrap();
    let text = encoder.encode(&tokens, false).unwrap().embedding.unwrap();
    let seen: Tensor = (images * 0.5 + 0.5).expand([-1, 3, -1, -1], false);
    let seen = ClipVision::open(&clip, Device::Cpu).unwrap().extract(&seen).unwrap().features;
    Tensor::cosine_similarity(&seen, &text, 1, 1e-8).mean(Kind::Double).double_value(&[])
}

/// Under the CLIP that guides them, images are closer to the text than those of the same noise without guidance: in pixels,
/// through the decoder of latents, and of an arm.
#[test]
fn a_clip_draws_images_to_a_text() {
    let (place, folder) = place();
    let clip = path(&folder, "clip");
    let text = "a photo of the cat";
    let guided = |model: &str, told: &[&str], prompt: &[&str], (margin, of_views): (f64, bool)| {
        let of = |out: &str, clip: &[&str]| {
            let out = format!("{}-{out}", Path::new(model).file_name().unwrap().to_string_lossy());
            let fixed = ["sample", model, "--steps", "6", "--tensors", "--n", "3", "--out", &out];
            place.succeed(&[&fixed[..], told, clip].concat());
            let tensors = Tensor::read_safetensors(place.path(&out).join("images.safetensors")).unwrap();
            closeness(&folder, &tensors[0].1, text)
        };
        let clip = [&["--clip", &clip, "--clip-scale", "20"], prompt].concat();
        let [plain, drawn] = [of("plain", &[]), of("drawn", &clip)];
        let alone = of("alone", &[&clip[..], &["--clip-views", "0"]].concat());
        assert!(alone > plain + margin, "{model}: {plain} {drawn} {alone}");
        assert!(!of_views || drawn > plain + margin, "{model}: {plain} {drawn} {alone}");
    };
    let prompt = ["--prompt", text];
    guided(&path(&folder, "ddpm"), &[], &prompt, (0.02, true));
    let told = ["--prompt", text, "--size", "16x16", "--guidance", "2"];
    guided(&path(&folder, "sd"), &told, &[], (0.02, true));
    // What a transformer of random weights makes of a nudge is chaos: views, which are noise, do not help it.
    guided(&path(&folder, "dit"), &["--class", "7"], &prompt, (0.003, false));

    fs::write(place.path("plain.toml"), super::TINY).unwrap();
    place.succeed(&["train", "plain.toml", "--out", "run", "--set", "train.steps=1"]);
    let of = |out: &str, more: &[&str]| {
        place.succeed(&[&["sample", "run/arms/base-seed0", "--n", "4", "--out", out], more].concat());
        let image = |i| {
            let pixels = image::open(place.path(&format!("{out}/{i:05}.png"))).unwrap().to_luma8().into_raw();
            Tensor::from_slice(&pixels).view([1, 1, 8, 8]).to_kind(Kind::Float) / 127.5 - 1.0
        };
        closeness(&folder, &Tensor::cat(&(0..4).map(image).collect::<Vec<_>>(), 0), text)
    };
    let (plain, drawn) =
        (of("plain", &[]), of("drawn", &["--clip", &clip, "--clip-scale", "20", "--prompt", text]));
    assert!(drawn > plain + 0.02, "{plain} {drawn}");
}
