//! Studies: what is done stays, what has changed is made anew, and what fails does not stop the others.

use super::kills::timeless;
use super::schema::assert_is_valid_study;
use super::{Place, json, text};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

/// When an arm ended.
fn ended(run: &Path, arm: &str) -> SystemTime {
    fs::metadata(run.join("arms").join(arm).join("arm.json")).unwrap().modified().unwrap()
}

/// Adds to the recipe of a place.
fn extend(place: &Place, more: &str) {
    let path = place.path("tiny.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    fs::write(path, recipe + more).unwrap();
}

fn replace(place: &Place, from: &str, to: &str) {
    let path = place.path("tiny.toml");
    let recipe = fs::read_to_string(&path).unwrap();
    assert!(recipe.contains(from));
    fs::write(path, recipe.replace(from, to)).unwrap();
}

#[test]
fn what_is_done_stays_and_what_has_changed_is_made_anew() {
    let place = Place::new();
    let run = place.path("run");
    let args = ["experiment", "tiny.toml", "--out", "run"];
    place.succeed(&args);
    let first = (ended(&run, "few-seed0"), ended(&run, "many-seed0"));
    let whole = timeless(&run);

    // Again: nothing is left to do. With another seed: that alone.
    place.succeed(&args);
    assert_eq!((ended(&run, "few-seed0"), ended(&run, "many-seed0")), first);
    assert_eq!(timeless(&run), whole);
    place.succeed(&[&args[..], &["--seed", "0", "--seed", "1"]].concat());
    assert_eq!((ended(&run, "few-seed0"), ended(&run, "many-seed0")), first);
    assert_eq!(json(&run.join("study.json"))["arms"].as_array().unwrap().len(), 4);

    // One arm changes: the other stays. It changes back: what it was comes back.
    replace(&place, "n_train = 16 ", "n_train = 17 ");
    place.succeed(&args);
    assert_eq!(ended(&run, "many-seed0"), first.1);
    assert!(ended(&run, "few-seed0") > first.0);
    assert_eq!(json(&run.join("study.json"))["arms"][0]["n_train"], 17);
    replace(&place, "n_train = 17 ", "n_train = 16 ");
    place.succeed(&args);
    assert_eq!(ended(&run, "few-seed0"), first.0);
    assert_eq!(timeless(&run), whole);

    // A folder of another study is not written into.
    replace(&place, "name = \"tiny\"", "name = \"other\"");
    let out = place.run(&args);
    let stderr = text(&out.stderr);
    assert!(
        out.status.code() == Some(1) && stderr.contains("`tiny`") && stderr.contains("--out"),
        "{stderr}"
    );
}

/// Killed when half of its arms are done, and the recipe of the other half changed: the first half stays.
#[test]
fn a_recipe_that_changes_after_half_the_arms_keeps_that_half() {
    let place = Place::new();
    let run = place.path("run");
    let (endless, short) = ("many = { train = { steps = 100000 } }", "many = {}");
    replace(&place, short, endless);
    let args = ["experiment", "tiny.toml", "--out", "run", "--jobs", "1"];
    let mut child = place.command(&args).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now();
    while !run.join("arms/many-seed0/lock").exists() && patience.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let first = ended(&run, "few-seed0");
    assert!(!run.join("study.json").exists());
    replace(&place, endless, short);
    place.succeed(&args);
    assert_eq!(ended(&run, "few-seed0"), first);
    let study = json(&run.join("study.json"));
    let steps: Vec<_> = study["arms"].as_array().unwrap().iter().map(|a| a["steps"].as_u64()).collect();
    assert_eq!(steps, [Some(30), Some(30)]);
}

#[test]
fn an_arm_that_diverges_or_is_too_large_does_not_stop_the_others() {
    let place = Place::new();
    let broken = "diverges = { train = { learning_rate = { peak = 1e30 } } }, large = { model = { block_out_channels = [400000, 8] } }, many";
    replace(&place, "many", broken);
    replace(&place, "gradient = [{ kind = \"clip\", max_norm = 1.0 }]", "gradient = []");
    let args = ["experiment", "tiny.toml", "--out", "run"];
    // The plan has a line for each all the same, and says what will not go.
    let plan = place.run(&[&args[..], &["--dry-run"]].concat());
    let (table, errors) = (text(&plan.stdout), text(&plan.stderr));
    assert!(plan.status.code() == Some(1) && errors.contains("error: large: needs more memory"), "{errors}");
    assert!(["few", "diverges", "large", "many"].iter().all(|arm| table.contains(arm)), "{table}");
    for again in [false, true] {
        let out = place.run(&args);
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert_is_valid_study(&place.path("run/study.json"));
        let study = json(&place.path("run/study.json"));
        let names: Vec<&str> =
            study["arms"].as_array().unwrap().iter().map(|a| a["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["few", "many"]);
        let failures = study["failures"].as_array().unwrap();
        let told = |name: &str, diverged: bool, word: &str| {
            let of = failures.iter().find(|f| f["name"] == name).unwrap();
            assert!(of["diverged"] == diverged && of["reason"].as_str().unwrap().contains(word), "{of}");
            assert!(stderr.contains(&format!("error: {name} seed 0: ")), "{stderr}");
        };
        told("diverges", true, "not finite");
        told("large", false, "more memory than there is");
        let verdict = study["verdict"].as_str().unwrap();
        assert!(verdict.ends_with("Without a result: diverges (seed 0); large (seed 0)."), "{verdict}");
        let page = fs::read_to_string(place.path("run/report.html")).unwrap();
        assert!(page.contains("Arms without a result") && page.contains("more memory than there is"));
        // What diverged would again, and is left alone; what lacked memory is tried again.
        assert!(again || place.path("run/arms/diverges-seed0/diverged.json").is_file());
    }
}

#[test]
fn two_processes_do_not_run_one_study() {
    let place = Place::new();
    let args = ["experiment", "tiny.toml", "--out", "run", "--set", "train.steps=100000"];
    let mut first = place.command(&args).stderr(Stdio::null()).spawn().unwrap();
    let patience = Instant::now();
    while !place.path("run/arms/few-seed0/lock").exists() && patience.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(20));
    }
    let out = place.run(&args);
    let stderr = text(&out.stderr);
    assert!(out.status.code() == Some(1), "{stderr}");
    assert!(stderr.contains(&format!("another process ({})", first.id())), "{stderr}");
    first.kill().unwrap();
    first.wait().unwrap();
    // The lock of a process that died is no lock; its workers end by themselves.
    let out = place.run(&["experiment", "tiny.toml", "--out", "run", "--dry-run"]);
    assert!(out.status.success(), "{}", text(&out.stderr));
}

/// Of two that start in one moment one runs, and its folder is left to it by the other.
#[test]
fn two_processes_that_start_together_do_not_lose_the_study() {
    let place = Place::new();
    let args = ["experiment", "tiny.toml", "--out", "run"];
    let both = [(); 2].map(|()| place.command(&args).stderr(Stdio::piped()).spawn().unwrap());
    let mut lost = 0;
    for child in both {
        let out = child.wait_with_output().unwrap();
        let stderr = text(&out.stderr);
        assert!(out.status.success() || stderr.contains("another process ("), "{stderr}");
        lost += usize::from(!out.status.success());
    }
    // The second may have come after the first was done, and then had nothing to do.
    assert!(lost <= 1);
    assert_eq!(json(&place.path("run/study.json"))["arms"].as_array().unwrap().len(), 2);
}

/// A result is named by all that it depends on: labels too, which no image shows.
#[test]
fn other_labels_are_other_data() {
    let place = Place::new();
    let (n, header) = (600u32, |kind: u8| vec![0, 0, 8, kind]);
    let sizes = |sizes: &[u32]| sizes.iter().flat_map(|n| n.to_be_bytes()).collect::<Vec<u8>>();
    let pixels = (0..n * 64).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
    let images = [header(3), sizes(&[n, 8, 8]), pixels.collect()].concat();
    fs::write(place.path("train-images-idx3-ubyte"), images).unwrap();
    let label = |classes: u32| {
        let labels = (0..n).map(|i| (i % classes) as u8).collect();
        fs::write(place.path("train-labels-idx1-ubyte"), [header(1), sizes(&[n]), labels].concat()).unwrap();
    };
    label(10);
    let run = place.path("run");
    let data = "data.name=\"train-images-idx3-ubyte\"";
    let args = ["experiment", "tiny.toml", "--out", "run", "--set", data];
    place.succeed(&args);
    let first = ended(&run, "few-seed0");
    place.succeed(&args);
    assert_eq!(ended(&run, "few-seed0"), first);
    label(7);
    place.succeed(&args);
    assert!(ended(&run, "few-seed0") > first, "the labels are others");
}

/// Whoever builds the program anew while it runs gets all arms of one build.
#[test]
fn a_study_ends_with_the_program_that_began_it() {
    let place = Place::new();
    let program = place.path("heldout");
    fs::copy(env!("CARGO_BIN_EXE_heldout"), &program).unwrap();
    let mut command = place.command(&["experiment", "tiny.toml", "--out", "run", "--jobs", "1"]);
    let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    command = std::process::Command::new(&program);
    command.args(args).current_dir(place.folder.path()).env("OMP_NUM_THREADS", "1");
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let patience = Instant::now();
    while !place.path("run/arms/few-seed0/lock").exists() && patience.elapsed() < Duration::from_secs(120) {
        sleep(Duration::from_millis(20));
    }
    fs::remove_file(&program).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert_eq!(json(&place.path("run/study.json"))["arms"].as_array().unwrap().len(), 2);
}

#[test]
fn arms_of_a_grid_are_compared_in_pairs() {
    let place = Place::new();
    extend(&place, "\n[compare]\nbaseline = \"few-rate0_002\"\noutcomes = [\"loss_held_out\", \"f_mem\"]\n");
    extend(&place, "[grid.rate]\nkey = \"train.learning_rate.peak\"\nvalues = [0.002, 0.0001]\n");
    // Equal in all that matters: the same data order, weights and noise give the same numbers.
    replace(
        &place,
        "arms = {",
        "arms = { twin = { data = { split = { n_train = 16 } }, train = { log_every = 3 } },",
    );
    let plan = place.succeed(&["experiment", "tiny.toml", "--out", "run", "--dry-run"]);
    assert!(plan.contains("many-rate0_0001") && plan.contains("to do") && plan.contains("minutes"), "{plan}");
    assert!(!place.path("run").exists());
    place.succeed(&["experiment", "tiny.toml", "--out", "run", "--seed", "0", "--seed", "1"]);
    assert_is_valid_study(&place.path("run/study.json"));
    let study = json(&place.path("run/study.json"));
    assert_eq!(study["arms"].as_array().unwrap().len(), 3 * 2 * 2);
    let effects = study["comparison"]["effects"].as_array().unwrap();
    assert_eq!(effects.len(), 2 * 5);
    let effect =
        |arm: &str| effects.iter().find(|e| e["arm"] == arm && e["outcome"] == "loss_held_out").unwrap();
    let twin = effect("twin-rate0_002");
    assert_eq!((&twin["difference"]["mean"], &twin["difference"]["n"]), (&0.0.into(), &2.into()), "{twin}");
    assert_eq!(twin["decision"]["evidence"], "no_evidence");
    let slow = effect("few-rate0_0001");
    assert!(
        slow["difference"]["mean"].as_f64().unwrap() != 0.0 && slow["difference"]["p"].is_f64(),
        "{slow}"
    );
    let verdict = study["verdict"].as_str().unwrap();
    assert!(verdict.contains("over 2 seeds") && verdict.contains("no evidence of a difference"), "{verdict}");
    let page = fs::read_to_string(place.path("run/report.html")).unwrap();
    assert!(page.contains("Beside few-rate0_002") && page.contains("What the arms cost"));

    place.succeed(&["report", "run", "--results", "docs"]);
    let results = fs::read_to_string(place.path("docs/tiny.md")).unwrap();
    assert!(results.contains("# Does <it> run?") && results.contains("## Beside few-rate0_002"), "{results}");
    let linked = results.split("](").skip(1).filter_map(|part| part.split(')').next());
    assert!(linked.clone().count() >= 8);
    for link in linked {
        assert!(place.path("docs").join(link).is_file(), "{link} is not there");
    }
    // The same runs beside each other, by hand.
    let slower = ["--set", "train.learning_rate.peak=0.0001", "--set", "arms.many.data.split.n_train=400"];
    place.succeed(
        &[&["experiment", "tiny.toml", "--out", "other", "--set", "compare.baseline=few"][..], &slower]
            .concat(),
    );
    place.succeed(&[
        "experiment",
        "tiny.toml",
        "--out",
        "same",
        "--set",
        "compare.baseline=few",
        "--set",
        "train.learning_rate.peak=0.002",
    ]);
    let compared = place.succeed(&["compare", "same", "other", "--outcome", "loss_held_out"]);
    for words in [
        "train.learning_rate.peak: 0.002 -> 0.0001",
        "one seed: cannot be told from chance",
        "note: many of other was measured otherwise (data.split.n_train)",
    ] {
        assert!(compared.contains(words), "`{words}` is not in: {compared}");
    }
    place.fail(&["compare", "same", "same/arms"], 1, &["same/arms", "study.json"]);
    place.fail(&["compare", "same", "other", "--outcome", "beauty"], 2, &["beauty"]);

    let bad = |from: &str, to: &str, words: &[&str]| {
        let path = place.path("tiny.toml");
        let recipe = fs::read_to_string(&path).unwrap();
        assert!(recipe.contains(from), "{from}");
        let broken: PathBuf = place.path("broken.toml");
        fs::write(&broken, recipe.replace(from, to)).unwrap();
        place.fail(&["experiment", "broken.toml", "--out", "out"], 2, words);
    };
    bad("\"few-rate0_002\"", "\"fee\"", &["compare.baseline", "fee", "few-rate0_002"]);
    bad("\"f_mem\"]", "\"f_men\"]", &["compare.outcomes", "f_men", "loss_held_out"]);
    bad("\"f_mem\"]", "\"c_t\"]", &["compare.outcomes", "c_t", "0"]);
    bad("\"f_mem\"]", "\"fd\"]", &["compare.outcomes", "fd", "monitor.features"]);
    bad("values = [0.002, 0.0001]", "values = []", &["grid.rate.values"]);
    bad("values = [0.002, 0.0001]", "values = [0.002, 0.002]", &["grid", "twice"]);
    bad(
        "key = \"train.learning_rate.peak\"",
        "key = \"train.learning_rat.peak\"",
        &["train", "learning_rat"],
    );
}
