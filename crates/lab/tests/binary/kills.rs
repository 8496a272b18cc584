//! Runs that are cut: by signals, by kills at any moment, in their evaluation, and with damaged checkpoints.

use super::{Place, json, last_checkpoint, metrics, text};
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Killed without warning at arbitrary moments, several times, and resumed, a run ends with the same bytes: weights,
/// averaged weights, optimiser state, and what was reported.
#[test]
fn a_run_that_was_killed_goes_on_to_the_last_bit() {
    survives_kills(&Place::new(), &["experiment"], &["few-seed0", "many-seed0"]);
}

/// Ends the processes of the arms of a run, without warning.
fn kill_workers(run: &Path) {
    let arms = fs::read_dir(run.join("arms")).into_iter().flatten().flatten();
    let running = arms.map(|arm| arm.path()).filter(|arm| !arm.join("arm.json").exists());
    for pid in running.filter_map(|arm| fs::read_to_string(arm.join("lock")).ok()) {
        let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
    }
}

/// `study.json` without what a clock and the system say.
pub(super) fn timeless(run: &Path) -> Value {
    let mut study = json(&run.join("study.json"));
    for arm in study["arms"].as_array_mut().unwrap() {
        for field in ["seconds", "peak_rss_bytes"] {
            assert!(arm.as_object_mut().unwrap().remove(field).is_some());
        }
    }
    study
}

#[track_caller]
pub(super) fn survives_kills(place: &Place, command: &[&str], arms: &[&str]) {
    let of = |out| [command, &["tiny.toml", "--out", out]].concat();
    place.succeed(&of("whole"));
    let mut args = of("cut");
    // Other moments at every run of the test: a failure at any of them is a failure.
    let mut random = u64::from(std::process::id());
    let mut draw = |n: u64| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (random >> 33) % n
    };
    let mut kills = 0;
    for _ in 0..4 {
        let mut child = place.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stderr.take().unwrap());
        // A line comes every third step; then some time, so that it is hit anywhere in a step or a write.
        let lines = said.lines().take(1 + draw(6) as usize).count();
        sleep(Duration::from_millis(draw(60)));
        kills += u32::from(lines > 0 && child.try_wait().unwrap().is_none());
        // Now the workers die as well, now they see that nobody listens any more.
        if draw(2) == 0 {
            kill_workers(&place.path("cut"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        args = vec!["experiment", "--resume", "cut"];
    }
    assert!(kills > 0);
    place.succeed(&args);
    assert_eq!(timeless(&place.path("whole")), timeless(&place.path("cut")));
    for arm in arms {
        assert!(
            last_checkpoint(&place.path("whole"), arm) == last_checkpoint(&place.path("cut"), arm),
            "{arm}"
        );
    }
    assert_eq!(metrics(&place.path("whole")), metrics(&place.path("cut")));
}

/// The moments that the kills above meet too seldom: between the last checkpoint and the end of the evaluation.
#[test]
fn a_run_that_was_cut_in_its_evaluation_goes_on_to_the_last_bit() {
    let place = Place::new();
    let run = place.path("run");
    let stop = [
        "validation.early_stopping={kind=\"held_out_loss\",patience=1}",
        "validation.every=1",
        "train.learning_rate.peak=1.0",
    ];
    for settings in [&[][..], &stop[..]] {
        let args = ["train", "tiny.toml", "--out", "run"].into_iter();
        place.succeed(&args.chain(settings.iter().flat_map(|s| ["--set", *s])).collect::<Vec<_>>());
        let whole = metrics(&run);
        let ends: Vec<usize> = whole.match_indices('\n').map(|(at, _)| at + 1).collect();
        let n = ends.len();
        // The last three lines are the evaluation's: none, two and a part, or all of them had been written.
        for cut in [ends[n - 4], ends[n - 2] + 9, ends[n - 1]] {
            for file in ["study.json", "arms/base-seed0/arm.json"] {
                fs::remove_file(run.join(file)).unwrap();
            }
            fs::write(run.join("arms/base-seed0/metrics.jsonl"), &whole[..cut]).unwrap();
            place.succeed(&["experiment", "--resume", "run"]);
            assert_eq!(metrics(&run), whole, "cut after {cut} bytes of {}", whole.len());
        }
        let arm = json(&run.join("arms/base-seed0/arm.json"));
        assert_eq!(arm["stopped"].is_null(), settings.is_empty(), "{arm}");
        fs::remove_dir_all(&run).unwrap();
    }
}

#[cfg(unix)]
#[test]
fn signals_end_a_run_with_a_checkpoint() {
    for signal in ["-INT", "-TERM"] {
        let place = Place::new();
        let args = ["experiment", "tiny.toml", "--out", "out", "--set", "train.steps=100000"];
        let child = place.command(&args).stderr(Stdio::piped()).spawn().unwrap();
        let first = place.path("out/arms/few-seed0/checkpoints/step-00000005");
        let patience = Instant::now();
        while !first.exists() && patience.elapsed() < Duration::from_secs(120) {
            sleep(Duration::from_millis(20));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let out = child.wait_with_output().unwrap();
        let stderr = text(&out.stderr);
        assert_eq!(out.status.code(), Some(130), "{stderr}");
        assert!(stderr.contains("--resume out"), "{stderr}");
        assert!(!stderr.contains("panicked"));
    }
}

#[test]
fn a_damaged_checkpoint_falls_back_and_another_models_is_put_aside() {
    let place = Place::new();
    place.succeed(&["train", "tiny.toml", "--out", "run"]);
    let arm = place.path("run/arms/base-seed0");
    fs::remove_file(arm.join("arm.json")).unwrap(); // as if it had been cut before its evaluation
    let weights = arm.join("checkpoints/step-00000030/weights.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, &bytes).unwrap();
    let out = place.run(&["sample", "run/arms/base-seed0/checkpoints/step-00000030", "--out", "out"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("weights.safetensors: damaged"), "{}", text(&out.stderr));

    let out = place.run(&["experiment", "--resume", "run"]);
    let stderr = text(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    assert!(
        stderr.contains("passed over a damaged checkpoint") && stderr.contains("resumed after step 25"),
        "{stderr}"
    );
    assert!(metrics(&place.path("run")).contains("passed over a damaged checkpoint"));

    fs::remove_file(arm.join("arm.json")).unwrap();
    let recipe = place.path("run/recipe.toml");
    let wider = fs::read_to_string(&recipe).unwrap().replace("layers_per_block = 1", "layers_per_block = 2");
    fs::write(&recipe, wider).unwrap();
    let before = fs::read_dir(arm.join("checkpoints")).unwrap().count();
    place.succeed(&["experiment", "--resume", "run"]);
    let aside: Vec<PathBuf> =
        fs::read_dir(place.path("run/superseded")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(aside.len(), 1, "the other model's checkpoints are put aside, not gone on with");
    assert_eq!(fs::read_dir(aside[0].join("checkpoints")).unwrap().count(), before);
    // Into the new model's folder by hand: still refused.
    fs::remove_file(arm.join("arm.json")).unwrap();
    fs::remove_dir_all(arm.join("checkpoints")).unwrap();
    fs::rename(aside[0].join("checkpoints"), arm.join("checkpoints")).unwrap();
    place.fail(&["experiment", "--resume", "run"], 1, &["step-00000030", "another recipe or model"]);
}
