//! Every technique in a recipe, alone and with all others.

use super::kills::survives_kills;
use super::{Place, json, metrics, text};
use std::fs;
use std::path::Path;

/// Fragments that ship, with what each needs besides.
fn fragments() -> Vec<(String, Vec<String>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/with");
    let names = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let names = names.map(|p| p.file_stem().unwrap().to_string_lossy().into_owned());
    let with = |name: String| {
        let sets: &[&str] = match name.as_str() {
            "label_dropout" => &["model.num_class_embeds=11"],
            "color_jitter" => &["data.name=pixel-faces", "model.in_channels=3", "model.out_channels=3"],
            "deep_supervision" => &[NESTED],
            "feature_alignment" => &["model.mid_attention=true"],
            _ => &[],
        };
        (name, sets.iter().map(|s| (*s).to_owned()).collect())
    };
    names.map(with).collect()
}

const NESTED: &str = "model={kind=\"unetpp\",depth=3,deep_supervision=true,unet={in_channels=1,out_channels=1,\
    block_out_channels=[8,8,8,8],layers_per_block=1,attention=[false,false,false,false],mid_attention=false,\
    attention_head_dim=4,norm_num_groups=4,norm_eps=1e-5,dropout=0.0}}";

#[test]
fn every_fragment_builds_and_runs() {
    let place = Place::new();
    let teacher = ["train", "tiny.toml", "--out", "runs/teacher", "--set", "train.steps=2"];
    place.succeed(&[&teacher[..], &["--set", "model.mid_attention=true"]].concat());
    let found = fragments();
    assert!(found.len() >= 48, "{}", found.len());
    let for_alignment = super::texts::for_alignment(&place);
    for (name, sets) in &found {
        let sets = if name == "text_alignment" { &for_alignment } else { sets };
        let mut args = vec!["experiment", "tiny.toml", "--check", "--with", name];
        sets.iter().for_each(|s| args.extend(["--set", s]));
        let out = place.run(&args);
        assert!(out.status.success(), "{name}: {}", text(&out.stderr));
    }
}

/// As many at once as can be: everything that draws, waits, counts or learns.
const ALL: &str = r#"
[validation]
early_stopping = { kind = "gap", limit = 0.9, levels = 8, patience = 3 }

[checkpoint]
averages_every = 10

[model]
kind = "unetpp"
depth = 2
deep_supervision = true

[model.unet]
in_channels = 1
out_channels = 1
block_out_channels = [8, 8, 8]
layers_per_block = 1
attention = [false, true, false]
mid_attention = true
attention_head_dim = 4
norm_num_groups = 4
norm_eps = 1e-5
dropout = 0.1
num_class_embeds = 11
time_cond_proj_dim = 9

[objective]
times = { kind = "adaptive_density", bins = 8, decay = 0.9, uniform = 0.2 }
uncertainty_features = 8

[regularization]
augment = [
    { kind = "crop", padding = 1 }, { kind = "flip" }, { kind = "rotation", degrees = 10.0 },
    { kind = "color_jitter", brightness = 0.2, contrast = 0.2 }, { kind = "cutout", size = 0.3, probability = 0.5 },
    { kind = "mixup", alpha = 0.4, probability = 0.5 }, { kind = "non_leaky" },
    { kind = "label_dropout", probability = 0.2, null = 10 },
    { kind = "gaussian_blur", sigma = [0.1, 0.5], kernel = 3, probability = 0.3 },
    { kind = "erasing", probability = { kind = "linear", from = 0.0, to = 0.5 } },
    { kind = "additive_noise", strength = 0.01 },
]
times = [
    { kind = "curriculum", stages = 3, pace = { kind = "plateau", patience = 4, smoothing = 0.8, improvement = 0.01, latest = 0.5 } },
    { kind = "curriculum", stages = 2, order = "low_to_high", pace = { kind = "held_out", every = 4, patience = 1, latest = 0.6 } },
    { kind = "level_jitter", std = 0.1 },
]
noise = [
    { kind = "offset", strength = 0.1 }, { kind = "multi_resolution", strength = 0.3, levels = 2 },
    { kind = "optimal_assignment" }, { kind = "input_perturbation", strength = 0.1 },
    { kind = "schedule_jitter", strength = 0.1 },
]
penalty = [
    { weight = 1e-3, every = 2, term = { kind = "jacobian" } },
    { weight = 1e-3, every = 3, term = { kind = "input_gradient" } },
    { weight = 1e-4, every = 4, term = { kind = "loss_gradient" } },
    { weight = { kind = "cosine", from = 0.0, to = 0.1 }, term = { kind = "consistency" } },
    { weight = 0.5, term = { kind = "deep_supervision", heads = 1 } },
    { weight = 0.1, term = { kind = "feature_alignment", site = { head = 1 }, hidden = 8, network = "runs/teacher/arms/base-seed0", network_site = "mid" } },
    { weight = 0.01, term = { kind = "adversarial", channels = [8, 8], loss = "wasserstein", critic_steps = 3, gradient_penalty = {}, r1 = { every = 3 }, diffusion = { interval = 2, ada_kimg = 0.1 } } },
]
gradient = [
    { kind = "pc_grad", edges = [0.0] }, { kind = "accumulate", micro_batches = 2 }, { kind = "sam", rho = 0.01 },
    { kind = "noise", eta = 1e-6 },
]
weights = [
    { kind = "reptile", tasks = { of = { kind = "shard", shards = 2 }, per_step = 2, support = 4, query = 0 }, inner_steps = 1, share = 0.5 },
    { kind = "lookahead", every = 4, share = 0.5 }, { kind = "normalization", strength = 0.5 },
    { kind = "power_ema", width = 0.05 }, { kind = "power_ema", width = 0.1 },
    { kind = "swa", start = 0.5, every = 3, rate = 1e-3 },
    { kind = "ema", name = "half", decay = { kind = "half_life", steps = 5.0, ramp_up = 0.2 } },
]
"#;

/// Meta-learning of second order around what can lie in it, and data of which a part is never seen.
const OTHERS: &str = r#"
[model]
in_channels = 2

[objective]
prediction = "x_start"
weighting = { kind = "constant" }

[regularization]
corruption = { missing = 0.3, further = 0.2 }
augment = [{ kind = "flip" }]
penalty = [{ weight = 1e-3, every = 2, term = { kind = "jacobian" } }]
gradient = [
    { kind = "maml", tasks = { of = { kind = "noise_band", edges = [0.0] }, per_step = 2, support = 8, query = 8 }, inner_steps = 2, inner_rate = 0.01, order = "second" },
]
"#;

fn with(fragment: &str) -> Place {
    let place = Place::new();
    place.succeed(&[
        "train",
        "tiny.toml",
        "--out",
        "runs/teacher",
        "--set",
        "train.steps=2",
        "--set",
        "model.mid_attention=true",
    ]);
    fs::write(place.path("all.toml"), fragment).unwrap();
    place
}

#[test]
fn all_techniques_at_once_resume_to_the_last_bit() {
    let place = with(ALL);
    survives_kills(&place, &["train", "--with", "all.toml", "--set", "train.steps=15"], &["base-seed0"]);
    let arm = "whole/arms/base-seed0";
    // What the run kept: three kinds of checkpoint, any of its averages, and one of a width that was not tracked.
    for (i, choice) in [
        ["--best", "quality"],
        ["--best", "generalization"],
        ["--weights", "live"],
        ["--weights", "swa"],
        ["--weights", "power_ema 0.1"],
        ["--width", "0.08"],
    ]
    .iter()
    .enumerate()
    {
        let out = format!("images{i}");
        place.succeed(&[&["sample", arm, "--n", "2", "--steps", "2", "--out", &out], &choice[..]].concat());
    }
    for (choice, words) in [
        (["--weights", "none"], "`none` is none of the weights of this run: live, ema, power_ema 0.05,"),
        (["--best", "speed"], "no checkpoint has the score `speed`"),
        (["--width", "0.5"], "0.5 is not between"),
    ] {
        let out = place.run(&[&["sample", arm, "--out", "bad"], &choice[..]].concat());
        assert!(text(&out.stderr).contains(words), "{}", text(&out.stderr));
        assert!(!place.path("bad").exists());
    }
}

#[test]
fn meta_learning_and_hidden_pixels_resume_to_the_last_bit() {
    survives_kills(
        &with(OTHERS),
        &["train", "--with", "all.toml", "--set", "train.steps=15"],
        &["base-seed0"],
    );
}

#[test]
fn what_cannot_be_combined_names_the_field() {
    let place = Place::new();
    let says = |set: &str, words: &[&str]| {
        place.fail(&["experiment", "tiny.toml", "--out", "out", "--set", set], 2, words);
    };
    says(
        "regularization.gradient=[{kind=\"clip\",max_norm=1.0},{kind=\"pc_grad\",edges=[0.0]}]",
        &["regularization.gradient[1].kind", "put it first"],
    );
    says(
        "regularization.gradient=[{kind=\"accumulate\",micro_batches=5}]",
        &["gradient[0].micro_batches: 5"],
    );
    says("regularization.weights=[{kind=\"lookahead\",every=0,share=0.5}]", &["weights[0].every: 0"]);
    says(
        "regularization.times=[{kind=\"curriculum\",stages=3,pace={kind=\"share\",until=1.0}}]",
        &["regularization.times[0]", "until", "1"],
    );
    says(
        "regularization.augment=[{kind=\"color_jitter\",saturation=0.5}]",
        &["regularization.augment[0].saturation", "3 channels"],
    );
    says("regularization.augment=[{kind=\"non_leaky\"}]", &["timestep_cond"]);
    says("regularization.noise=[{kind=\"offset\",strength=-1.0}]", &["regularization.noise[0].strength: -1"]);
    says(
        "regularization.penalty=[{weight=1.0,term={kind=\"feature_alignment\",site=\"mid\",network=\"nowhere\"}}]",
        &["regularization.penalty[0].term", "network", "nowhere"],
    );
    says("regularization.corruption={missing=0.2,further=0.1}", &["x_start"]);
    says(
        "regularization.gradient=[{kind=\"maml\",tasks={of={kind=\"class\"},per_step=1,support=20,query=2},inner_steps=1,\
         inner_rate=0.1,order=\"first\"}]",
        &["gradient[0].tasks.support: 20", "a batch of 16"],
    );
    let critic = "{weight=1.0,term={kind=\"adversarial\"}}";
    says(&format!("regularization.penalty=[{critic},{critic}]"), &["penalty[1].term.kind", "second critic"]);
    says("train.stop_after=99", &["train.stop_after: 99"]);
}

/// Pilots on parts of the data say when the whole run should stop.
#[test]
fn a_stop_step_is_predicted_from_short_runs() {
    let place = Place::new();
    let settings = [
        "data.split.n_train=256",
        "train.batch_size=16",
        "train.steps=120",
        "validation.every=4",
        "train.learning_rate.peak=0.02",
        "validation.images=64",
        "monitor.every=1000",
    ];
    let mut args = vec!["stop-step", "tiny.toml", "--pilots", "16,8", "--patience", "4", "--out", "pilots"];
    settings.iter().for_each(|s| args.extend(["--set", s]));
    // At this rate the held-out loss of so few images rises long before the last step.
    let said = place.succeed(&args);
    assert!(said.contains("A run on 256 images begins to memorise after about"), "{said}");
    let stop = json(&place.path("pilots/stop.json"));
    let [low, at, high] = ["lower", "step", "upper"].map(|k| stop["prediction"][k].as_f64().unwrap());
    assert!(low < at && at < high, "{stop}");
    let onsets = stop["onsets"].as_array().unwrap();
    assert_eq!(onsets.iter().map(|o| o["n"].as_u64().unwrap()).collect::<Vec<_>>(), [16, 32]);
    place.succeed(&["train", "tiny.toml", "--out", "short", "--set", "train.stop_after=7"]);
    assert_eq!(json(&place.path("short/study.json"))["arms"][0]["steps"], 7);
    let last = metrics(&place.path("short"));
    assert!(last.contains("\"step\":7,\"kind\":\"validation\""), "its last step is validated: {last}");
    // A pilot that never turns gives no onset, and says so.
    let mut args = vec!["stop-step", "tiny.toml", "--pilots", "16,8", "--out", "still"];
    settings.iter().filter(|s| !s.contains("rate.peak")).for_each(|s| args.extend(["--set", s]));
    let out = place
        .run(&[&args[..], &["--set", "train.steps=20", "--set", "train.learning_rate.peak=1e-4"]].concat());
    let complained = text(&out.stderr);
    assert!(
        complained.contains("train.steps: too few") && complained.contains("was still falling"),
        "{complained}"
    );
    place.fail(
        &["stop-step", "tiny.toml", "--out", "out", "--pilots", "8"],
        2,
        &["--pilots", "two at least"],
    );
}

#[test]
fn advice_is_a_recipe() {
    let place = Place::new();
    for (data, words) in
        [("digits", "10 classes"), ("pixel-faces", "No labels"), ("fashion-mnist-16", "stop-step")]
    {
        let advice = place.succeed(&["advise", data]);
        assert!(advice.contains(words), "{advice}");
    }
    place.succeed(&["advise", "digits", "--out", "advised.toml"]);
    place.succeed(&["experiment", "advised.toml", "--check"]);
}
