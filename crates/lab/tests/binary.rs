//! The binary as a user meets it: runs, kills, resumes, and bad input.

#[path = "binary/adapters.rs"]
mod adapters;
#[path = "binary/audit_data.rs"]
mod audit_data;
#[path = "binary/clips.rs"]
mod clips;
#[path = "binary/diagnose.rs"]
mod diagnose;
#[path = "binary/kills.rs"]
mod kills;
#[path = "binary/latent.rs"]
mod latent;
#[path = "binary/measure.rs"]
mod measure;
#[path = "binary/models.rs"]
mod models;
#[path = "binary/pipelines.rs"]
mod pipelines;
#[path = "binary/schema.rs"]
mod schema;
#[path = "binary/study.rs"]
mod study;
#[path = "binary/submit.rs"]
mod submit;
#[path = "binary/techniques.rs"]
mod techniques;
#[path = "binary/texts.rs"]
mod texts;
#[path = "binary/training_sets.rs"]
mod training_sets;

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A model that trains in a second, on the digits that ship.
const TINY: &str = r#"
name = "tiny"
question = "Does <it> run?"
seeds = [0]
arms = { few = { data = { split = { n_train = 16 } } }, many = {} }
data = { name = "digits", split = { held_out = 64, n_train = 500, seed = 0 } }
schedule = { kind = "cosine", steps = 100 }
objective = { prediction = "v", weighting = { kind = "min_snr", gamma = 5.0 } }
sample = { sampler = { kind = "ddim", eta = 0.0 }, steps = 5, samples = 8, batch_size = 8 }
monitor = { every = 10, samples = 4, sampling_steps = 3 }
checkpoint = { every = 5, keep = 3 }
validation = { every = 10, images = 8, log_snr = [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0] }

[model]
kind = "unet"
in_channels = 1
out_channels = 1
block_out_channels = [8, 8]
layers_per_block = 1
attention = [false, true]
mid_attention = false
attention_head_dim = 4
norm_num_groups = 4
norm_eps = 1e-5
dropout = 0.1

[train]
steps = 30
batch_size = 16
optimizer = { kind = "adam_w", betas = [0.9, 0.99], eps = 1e-8, weight_decay = 0.01 }
learning_rate = { peak = 2e-3, warmup_steps = 5, decay = "cosine" }
non_finite = "stop"
log_every = 7

[regularization]
gradient = [{ kind = "clip", max_norm = 1.0 }]
weights = [{ kind = "ema", decay = { kind = "warm_up", decay = 0.9 } }]
"#;

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tiny.toml"), TINY).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heldout"));
        command.args(args).current_dir(self.folder.path()).env("RUST_BACKTRACE", "0");
        command.env("OMP_NUM_THREADS", "1"); // tests run side by side
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    #[track_caller]
    fn succeed(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
        text(&out.stdout)
    }

    /// Fails with this status, in one line that holds these words, leaving nothing at `out`.
    #[track_caller]
    fn fail(&self, args: &[&str], status: i32, words: &[&str]) {
        let out = self.run(args);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(status), "{args:?}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        let line = stderr
            .lines()
            .find(|l| l.starts_with("error: "))
            .unwrap_or_else(|| panic!("no error line: {stderr}"));
        for word in words {
            assert!(line.contains(word), "`{word}` is not in: {line}");
        }
        assert!(!self.path("out").exists(), "{args:?} left something behind");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Every tensor file of the last checkpoint of an arm, by name.
fn last_checkpoint(run: &Path, arm: &str) -> Vec<(String, Vec<u8>)> {
    let steps = fs::read_dir(run.join("arms").join(arm).join("checkpoints")).unwrap();
    let last = steps.map(|e| e.unwrap().path()).max().unwrap();
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(last)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "safetensors"))
        .map(|p| (p.file_name().unwrap().to_string_lossy().into_owned(), fs::read(&p).unwrap()))
        .collect();
    files.sort();
    assert!(
        files.iter().any(|f| f.0 == "weights.safetensors")
            && files.iter().any(|f| f.0 == "update.safetensors")
    );
    files
}

fn metrics(run: &Path) -> String {
    fs::read_to_string(run.join("metrics.jsonl")).unwrap()
}

#[test]
fn a_study_runs_from_recipe_to_report() {
    let place = Place::new();
    let said = place.succeed(&["experiment", "tiny.toml", "--out", "out"]);
    assert!(said.trim_end().ends_with("out/report.html"), "{said}");
    let result = json(&place.path("out/study.json"));
    schema::assert_is_valid_study(&place.path("out/study.json"));
    assert_eq!(result["arms"].as_array().unwrap().len(), 2);
    let arm = &result["arms"][0];
    for field in [
        "name",
        "seed",
        "n_train",
        "steps",
        "f_mem",
        "f_mem_ci",
        "f_mem_floor",
        "loss_train",
        "loss_held_out",
        "gap_by_level",
        "seconds",
        "peak_rss_bytes",
        "parameters",
    ] {
        assert!(!arm[field].is_null(), "{field} is missing");
    }
    assert_eq!((arm["n_train"].as_u64(), arm["f_mem_copier"].as_f64()), (Some(16), Some(1.0)));
    assert_eq!(arm["gap_by_level"].as_array().unwrap().len(), 8);
    let page = fs::read_to_string(place.path("out/report.html")).unwrap();
    assert!(page.contains("Does &lt;it&gt; run?"), "the question is not escaped");
    assert!(
        !page.contains("src=\"http") && !page.contains("href=\"http") && !page.contains("url("),
        "it loads something"
    );
    assert!(page.matches("<svg").count() >= 7, "{}", page.matches("<svg").count());
    assert!(fs::read_dir(place.path("out/arms/few-seed0/tensorboard")).unwrap().count() > 0);

    fs::remove_file(place.path("out/report.html")).unwrap();
    place.succeed(&["report", "out"]);
    assert_eq!(
        fs::read_to_string(place.path("out/report.html")).unwrap(),
        page,
        "the report is a function of the files"
    );

    place.succeed(&["sample", "out/arms/few-seed0", "--n", "3", "--out", "images"]);
    place.succeed(&["sample", "out/arms/few-seed0", "--n", "2", "--out", "fewer"]);
    assert_eq!(fs::read_dir(place.path("images")).unwrap().count(), 4);
    let read = |p: &str| fs::read(place.path(p)).unwrap();
    assert_eq!(read("images/00001.png"), read("fewer/00001.png"), "an image depends on how many are drawn");

    let unipc = "sample.sampler={kind=\"unipc\",order=2}";
    place.succeed(&["sample", "out/arms/few-seed0", "--n", "2", "--out", "unipc", "--set", unipc]);
    assert_ne!(read("unipc/00001.png"), read("fewer/00001.png"), "another sampler draws the same");
    let bad = |set: &str, words: &[&str]| {
        let out = place.run(&["sample", "out/arms/few-seed0", "--out", "bad", "--set", set]);
        let stderr = text(&out.stderr);
        assert!(out.status.code() == Some(2) && words.iter().all(|w| stderr.contains(w)), "{stderr}");
        assert!(!place.path("bad").exists());
    };
    bad("model.dropout=0.5", &["model.dropout", "sample.sampler"]);
    bad("sample.sampler={kind=\"unipc\",order=9}", &["sample.sampler.order", "9"]);
    bad(
        "sample.grid={kind=\"karras\",rho=7.0,ends={kind=\"sigma\",min=2.0,max=1.0}}",
        &["sample.grid.ends", "2"],
    );

    let taken = place.run(&["experiment", "tiny.toml", "--out", "images"]);
    assert!(taken.status.code() == Some(1) && text(&taken.stderr).contains("images: is not empty"));
}

#[test]
fn the_same_command_gives_the_same_bytes() {
    let place = Place::new();
    for out in ["one", "two"] {
        place.succeed(&["experiment", "tiny.toml", "--out", out]);
    }
    assert_eq!(metrics(&place.path("one")), metrics(&place.path("two")));
    for arm in ["few-seed0", "many-seed0"] {
        assert!(
            last_checkpoint(&place.path("one"), arm) == last_checkpoint(&place.path("two"), arm),
            "{arm}"
        );
    }
}

#[test]
fn bad_settings_are_usage_errors_that_name_the_key() {
    let place = Place::new();
    let set = |value: &str, words: &[&str]| {
        place.fail(&["experiment", "tiny.toml", "--out", "out", "--set", value], 2, words);
    };
    set("train.stepps=3", &["train", "stepps"]);
    set("train.steps=-5", &["train.steps", "-5"]);
    set("train.steps=0", &["train.steps", "0"]);
    set("train.optimizer.kind=adamm", &["train.optimizer", "adamm"]);
    set("train.learning_rate.peak=-1.0", &["train.learning_rate.peak", "-1"]);
    set("train.batch_size=17", &["train.batch_size", "17", "16"]);
    set("arms.few.data.split.n_train=5000", &["data.split.n_train", "5000", "1797"]);
    set("model.attention_head_dim=3", &["model.attention_head_dim", "3"]);
    set("model.in_channels=3", &["model.in_channels", "3"]);
    set("model.block_out_channels=[8,8,8,8,8]", &["model", "attention"]);
    set("schedule.steps=1", &["schedule.steps", "1"]);
    set("validation.log_snr=[0.0]", &["validation.log_snr", "8"]);
    set("sample.sampler.eta=2.0", &["sample.sampler.eta", "2"]);
    set("data.name=nonesuch", &["nonesuch", "digits"]);
    set("train.steps", &["train.steps", "KEY=VALUE"]);
    place.fail(&["experiment", "tiny.toml", "--out", "out", "--seed", "x"], 2, &["x"]);
    place.fail(&["experiment", "nonesuch", "--out", "out"], 1, &["nonesuch", "quickstart"]);
    fs::write(place.path("broken.toml"), "name = \"x\"\nquestion = [\n").unwrap();
    place.fail(&["experiment", "broken.toml", "--out", "out"], 1, &["broken.toml", "line"]);
}

#[test]
fn bad_files_are_errors_that_name_the_file() {
    let place = Place::new();
    let train = |data: &str, words: &[&str]| {
        place.fail(&["train", "tiny.toml", "--data", data, "--out", "out"], 1, words);
    };
    let digits = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/digits/images.idx.gz");
    let bytes = fs::read(digits).unwrap();
    fs::write(place.path("cut.idx.gz"), &bytes[..bytes.len() / 2]).unwrap();
    train("cut.idx.gz", &["cut.idx.gz", "truncated"]);

    fs::create_dir(place.path("empty")).unwrap();
    train("empty", &["empty", "no PNG or JPEG"]);

    let images = place.path("images");
    fs::create_dir(&images).unwrap();
    let save = |name: &str, side: u32| {
        image::GrayImage::from_fn(side, side, |x, y| image::Luma([(x * 30 + y) as u8]))
            .save(images.join(name))
            .unwrap();
    };
    save("a.png", 8);
    save("b.png", 9);
    train("images", &["b.png", "9x9", "8x8"]);
    let whole = fs::read(images.join("a.png")).unwrap();
    fs::write(images.join("b.png"), &whole[..whole.len() - 16]).unwrap();
    train("images", &["b.png", "truncated"]);

    place.fail(&["sample", "empty", "--out", "out"], 1, &["empty", "holds no model"]);
    place.fail(&["report", "empty"], 1, &["empty", "not a run folder"]);
    place.fail(&["experiment", "--resume", "empty"], 1, &["empty", "not a run folder"]);
}

#[test]
fn folders_that_cannot_be_written_and_full_disks_are_errors() {
    let place = Place::new();
    fs::write(place.path("file"), "").unwrap();
    place.fail(&["experiment", "tiny.toml", "--out", "file/out"], 1, &["file/out"]);
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    place.fail(&["sample", "run/arms/base-seed0", "--out", "file/out"], 1, &["file/out"]);

    // A limit on the size of files stands for a disk that fills up: the system refuses to write on.
    let script = "trap '' XFSZ; ulimit -f 20; exec \"$0\" \"$@\"";
    let binary = env!("CARGO_BIN_EXE_heldout");
    let args = ["-c", script, binary, "train", "tiny.toml", "--out", "full"];
    let out = Command::new("bash").args(args).current_dir(place.folder.path()).output().unwrap();
    let stderr = text(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    let line = stderr.lines().last().unwrap();
    assert!(line.starts_with("error: ") && line.contains("checkpoints"), "{stderr}");
    let left: Vec<_> = fs::read_dir(place.path("full/arms/base-seed0/checkpoints")).unwrap().collect();
    assert!(left.is_empty(), "half a checkpoint is left: {left:?}");
}

#[test]
fn the_recipes_that_ship_build_and_run() {
    let place = Place::new();
    let listed = place.succeed(&["experiment", "--list"]);
    assert!(listed.contains("quickstart"), "{listed}");
    let recipes = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes")).unwrap();
    let mut names: Vec<PathBuf> =
        recipes.map(|entry| entry.unwrap().path()).filter(|p| p.is_file()).collect();
    names.sort();
    for name in names.iter().filter_map(|path| path.file_stem()?.to_str()) {
        assert!(listed.contains(name), "{name} is not listed");
        place.succeed(&["experiment", name, "--check"]);
    }
    let info = place.succeed(&["dataset", "digits"]);
    assert!(info.contains("1797") && info.contains("8x8"), "{info}");
    assert!(place.succeed(&["completions", "bash"]).contains("heldout"));
    for command in ["experiment", "train", "sample", "report"] {
        assert!(place.succeed(&[command, "--help"]).len() > 200);
    }
}

/// Early stopping ends a run on the held-out loss and says so.
#[test]
fn early_stopping_is_said() {
    let place = Place::new();
    let patience = "validation.early_stopping={kind=\"held_out_loss\",patience=1}";
    let args = ["train", "tiny.toml", "--out", "run", "--set", patience, "--set", "validation.every=1"];
    place.succeed(&[&args[..], &["--set", "train.learning_rate.peak=1.0"]].concat());
    let result = json(&place.path("run/study.json"));
    let arm = &result["arms"][0];
    assert!(arm["steps"].as_u64().unwrap() < 30, "{arm}");
    assert!(arm["stopped"].as_str().unwrap().contains("held-out loss"), "{arm}");
}
