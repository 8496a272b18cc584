//! Studies that are submitted: the scripts, what is said to SLURM, and the same scripts on this machine.

use super::kills::timeless;
use super::{Place, TINY, json, last_checkpoint, metrics, text};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread::sleep;
use std::time::{Duration, Instant};

const CONTROL: &str = "[arms.control]\nadapter = { kind = \"control_net\", base = { arm = \"base\" }, \
                       hint = { kind = \"canny\" } }\n";
/// A folder that no script may stumble over.
const RUN: &str = "it's a \"run\" #1, 100% $HOME";

/// A base and an adapter that is built on it, with two seeds.
fn place() -> Place {
    let place = Place::new();
    let few = "arms = { few = { data = { split = { n_train = 16 } } }, many = {} }";
    let (start, end) = TINY.split_once(few).expect("the tiny recipe has these arms");
    let recipe = format!("{start}{end}\n[arms.base]\n{CONTROL}").replace("seeds = [0]", "seeds = [0, 1]");
    fs::write(place.path("tiny.toml"), recipe).unwrap();
    place
}

#[track_caller]
fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let since = Instant::now();
    while !condition() {
        assert!(since.elapsed() < Duration::from_secs(240), "{what}");
        sleep(Duration::from_millis(50));
    }
}

/// The number of the process that runs a submission, from what was said.
fn process(said: &str) -> String {
    let line = said.lines().find_map(|l| l.strip_prefix("process ")).unwrap_or_else(|| panic!("{said}"));
    line.split(':').next().unwrap().to_owned()
}

/// Whether nobody runs this submission any more.
fn ended(run: &Path, submission: &str) -> bool {
    File::open(run.join("submit").join(submission).join("lock")).unwrap().try_lock().is_ok()
}

fn logs(run: &Path, submission: &str) -> String {
    let mut files: Vec<_> = fs::read_dir(run.join("submit").join(submission).join("log"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    files.iter().map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// Without SLURM, told to stop and submitted again, a study ends with the bytes of one that was run.
#[test]
fn a_study_that_was_submitted_here_ends_as_if_it_had_been_run() {
    let place = place();
    place.succeed(&["experiment", "tiny.toml", "--out", "whole"]);
    let args = ["experiment", "tiny.toml", "--out", RUN, "--submit", "local", "--jobs", "2"];
    let run = place.path(RUN);
    let first = process(&place.succeed(&args));
    let again = place.succeed(&args);
    assert!(again.contains(&format!("control seed 1: waits or runs already, as process {first}")), "{again}");
    assert!(!run.join("submit/2").exists());
    wait_for("a checkpoint", || run.join("arms/base-seed1/checkpoints/step-00000005").exists());
    assert!(Command::new("kill").arg(&first).status().unwrap().success());
    wait_for("its end", || ended(&run, "1"));
    let said = logs(&run, "1");
    assert!(said.contains("base-seed1: stopped, its state is saved"), "{said}");
    assert!(!run.join("study.json").exists());

    place.succeed(&args);
    wait_for("its end", || ended(&run, "2"));
    let said = logs(&run, "2");
    assert!(said.contains("base seed 1: resumed after step") && !said.contains("error"), "{said}");
    assert_eq!(timeless(&run), timeless(&place.path("whole")));
    assert_eq!(metrics(&run), metrics(&place.path("whole")));
    for arm in ["base-seed0", "control-seed0", "base-seed1", "control-seed1"] {
        assert!(last_checkpoint(&run, arm) == last_checkpoint(&place.path("whole"), arm), "{arm}");
    }
    assert!(run.join("report.html").is_file());

    // Nothing is left: the report is made again, at once.
    fs::remove_file(run.join("report.html")).unwrap();
    assert!(place.succeed(&args).trim_end().ends_with("report.html"));
    assert!(run.join("report.html").is_file() && !run.join("submit/3").exists());
}

#[test]
fn tasks_without_a_result_are_failures_that_say_why() {
    let place = place();
    let more = "\n[arms.diverges]\ntrain.learning_rate.peak = 1e30\n\
                \n[arms.lost]\nadapter = { kind = \"t2i\", base = { arm = \"diverges\" }, hint = { kind = \"canny\" } }\n";
    let recipe = fs::read_to_string(place.path("tiny.toml")).unwrap();
    fs::write(place.path("tiny.toml"), recipe + more).unwrap();
    let args = ["experiment", "tiny.toml", "--out", "run", "--seed", "0", "--submit", "local"];
    place.succeed(&args);
    wait_for("its end", || ended(&place.path("run"), "1"));
    let study = json(&place.path("run/study.json"));
    assert_eq!(study["arms"].as_array().unwrap().len(), 2);
    let failures = study["failures"].as_array().unwrap();
    let why = |name: &str| {
        let of = failures.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("{study}"));
        (of["reason"].as_str().unwrap().to_owned(), of["diverged"].as_bool().unwrap())
    };
    assert!(why("diverges").1 && why("diverges").0.contains("not finite"), "{study}");
    assert!(!why("lost").1 && why("lost").0.contains("its base diverges seed 0 has no result"), "{study}");
    // Neither can end otherwise: nothing is submitted, and the report stays.
    let out = place.run(&args);
    assert!(out.status.code() == Some(1) && text(&out.stderr).contains("lost seed 0: its base"), "{out:?}");
    assert!(!place.path("run/submit/2").exists());
}

/// A place with commands of SLURM that write down what they are told, and do nothing.
fn place_with_slurm() -> Place {
    let place = place();
    fs::create_dir(place.path("bin")).unwrap();
    let sbatch = "#!/bin/bash\nprintf '%s\\n' \"$*\" >>\"$TOLD\"\nn=$(wc -l <\"$TOLD\")\n\
                  [ -e refuse ] && [ $n = 2 ] && { echo 'sbatch: error: no such partition' >&2; exit 1; }\n\
                  echo \"Submitted batch job $((6 + n))\"\n";
    let squeue = "#!/bin/bash\ncat queue 2>/dev/null\nexit 0\n";
    let noted = |name: &str| format!("#!/bin/bash\nprintf '{name} %s\\n' \"$*\" >>\"$TOLD\"\n");
    let [scancel, scontrol] = ["scancel", "scontrol"].map(noted);
    for (name, script) in
        [("sbatch", sbatch), ("squeue", squeue), ("scancel", &scancel), ("scontrol", &scontrol)]
    {
        write_command(&place.path("bin").join(name), script);
    }
    place
}

fn write_command(path: &Path, script: &str) {
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn path_with_slurm(place: &Place) -> String {
    format!("{}:{}", place.path("bin").display(), std::env::var("PATH").unwrap())
}

fn to_slurm(place: &Place, args: &[&str]) -> Output {
    let args = [&["experiment", "tiny.toml", "--out", RUN, "--submit", "slurm"], args].concat();
    place.command(&args).env("PATH", path_with_slurm(place)).env("TOLD", place.path("told")).output().unwrap()
}

#[test]
fn an_array_job_is_submitted_for_every_level_of_bases_and_a_job_for_the_report() {
    let place = place_with_slurm();
    let run = place.path(RUN);
    let dry = to_slurm(&place, &["--dry-run", "--sbatch=--partition=gpu", "--sbatch=--comment=it's"]);
    let dry = text(&dry.stdout);
    assert!(!run.exists(), "a dry run makes nothing");
    fs::remove_file(place.path("told")).unwrap(); // what --test-only told
    let out = to_slurm(&place, &["--sbatch=--partition=gpu", "--sbatch=--comment=it's", "--jobs", "1"]);
    let said = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));

    let told = fs::read_to_string(place.path("told")).unwrap();
    let told: Vec<&str> = told.lines().collect();
    let folder = format!("{RUN}/submit/1");
    assert_eq!(told[0], format!("--parsable {folder}/array-1.sh"));
    let after =
        |jobs: &str| format!("--parsable --dependency=afterany:{jobs} --kill-on-invalid-dep=yes {folder}");
    assert_eq!(told[1], after("7") + "/array-2.sh");
    assert_eq!(told[2], after("7:8") + "/report.sh");
    assert_eq!(told.len(), 3);
    for words in ["job 7: 2 tasks\n", "job 8: 2 tasks, after 7\n", "job 9: the report", "scancel 7 8 9"] {
        assert!(said.contains(words), "`{words}` is not in: {said}");
    }

    let read = |name: &str| fs::read_to_string(run.join("submit/1").join(name)).unwrap();
    assert_eq!(read("array-1.txt"), "base-seed0\nbase-seed1\n");
    assert_eq!(read("array-2.txt"), "control-seed0\ncontrol-seed1\n");
    let script = read("array-1.sh");
    for line in [
        "#SBATCH --array=0-1%1",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
        "#SBATCH --signal=B:USR1@120",
        "#SBATCH --cpus-per-task=1",
        "#SBATCH --partition=gpu",
        "#SBATCH \"--comment=it's\"",
    ] {
        assert!(script.lines().any(|l| l == line), "`{line}` is not in: {script}");
    }
    let log = script.lines().find(|l| l.contains("--output=")).unwrap();
    assert!(log.contains("it's a \\\"run\\\" #1, 100%% $HOME/submit/1/log/array-1_%a.log\""), "{log}");
    assert!(!read("report.sh").contains("--array") && read("report.sh").contains("partition=gpu"));
    for name in ["array-1.sh", "array-2.sh", "report.sh"] {
        let checked = Command::new("bash").arg("-n").arg(run.join("submit/1").join(name)).status().unwrap();
        assert!(checked.success(), "{name}");
        // As it was said before, but for --jobs.
        assert!(dry.contains(&read(name).replace("0-1%1", "0-1")), "{name} is not in: {dry}");
    }
    assert!(dry.contains("--dependency=afterany:JOB-OF-array-1:JOB-OF-array-2"), "{dry}");
}

/// Where jobs compute is said when they are submitted, since results are named by it, and not found out by each.
#[test]
fn jobs_are_told_where_they_compute() {
    let place = place_with_slurm();
    let dry = |more: &[&str]| to_slurm(&place, &[&["--dry-run"], more].concat());
    let script = |more: &[&str]| text(&dry(more).stdout);
    assert!(script(&[]).contains("--alone --device cpu </dev/null"));
    // Of a GPU nothing need be here.
    assert!(script(&["--device", "cuda:1"]).contains("--alone --device cuda:1 </dev/null"));
    assert!(script(&["--device", "cpu", "--sbatch=--gres=gpu:1"]).contains("--device cpu"));
    if !tch::utils::has_cuda() {
        let out = dry(&["--sbatch=--gres=gpu:1"]);
        let said = text(&out.stderr);
        assert!(out.status.code() == Some(2) && said.contains("--sbatch: asks for GPUs"), "{said}");
    }
}

/// What waits in the queue stays there; what has left it without a result is submitted again, behind what it is built on.
#[test]
fn what_waits_already_is_not_submitted_again() {
    let place = place_with_slurm();
    assert!(to_slurm(&place, &[]).status.success());
    fs::write(place.path("queue"), "7_0\n7_1\n8_1\n").unwrap();
    let out = to_slurm(&place, &[]);
    let said = text(&out.stdout);
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(said.contains("left out: base seed 1: waits or runs already, as job 7_1"), "{said}");
    let told = fs::read_to_string(place.path("told")).unwrap();
    let told: Vec<&str> = told.lines().skip(3).collect();
    let folder = place.path(RUN).join("submit/2");
    assert_eq!(fs::read_to_string(folder.join("array-1.txt")).unwrap(), "control-seed0\n");
    assert!(told[0].contains("--dependency=afterany:7 "), "{told:?}"); // its base is in that job
    assert!(told[1].contains("--dependency=afterany:10:7:8 ") && told[1].ends_with("report.sh"), "{told:?}");

    let mut here = place.command(&["experiment", "tiny.toml", "--out", RUN, "--submit", "local"]);
    let out = here.env("PATH", place.path("nowhere")).output().unwrap();
    assert!(out.status.code() == Some(1) && text(&out.stderr).contains("squeue does not start"), "{out:?}");
    let out = here.env("PATH", path_with_slurm(&place)).output().unwrap();
    assert!(text(&out.stderr).contains("base-seed0 waits already as job 7_0: end that first"), "{out:?}");
}

#[test]
fn what_cannot_be_submitted_is_said_before_anything_is_made() {
    let place = place_with_slurm();
    let without = |args: &[&str], status: i32, words: &[&str]| {
        let mut command = place.command(&[&["experiment", "tiny.toml", "--out", "out"], args].concat());
        let out = command.env("PATH", place.path("nowhere")).output().unwrap();
        let stderr = text(&out.stderr);
        assert!(out.status.code() == Some(status) && words.iter().all(|w| stderr.contains(w)), "{stderr}");
        assert!(!place.path("out").exists());
    };
    without(&["--submit", "slurm"], 2, &["no sbatch on PATH", "--submit local", "--dry-run"]);
    without(&["--submit", "condor"], 2, &["condor", "neither slurm nor local"]);
    without(&["--submit", "slurm", "--sbatch=--array=0-9"], 2, &["--array=0-9", "leave it out"]);
    without(&["--submit", "slurm", "--sbatch=gpu"], 2, &["gpu", "--sbatch=--partition=gpu"]);
    without(&["--submit", "local", "--sbatch=--time=1"], 2, &["--sbatch", "slurm"]);
    without(&["--sbatch=--time=1"], 2, &["--submit"]);
    without(&["--submit", "local", "--set", "train.steps=0"], 2, &["train.steps"]);

    // The second script is refused: the first job is cancelled.
    fs::write(place.path("refuse"), "").unwrap();
    let out = to_slurm(&place, &[]);
    assert!(out.status.code() == Some(1) && text(&out.stderr).contains("no such partition"), "{out:?}");
    assert!(fs::read_to_string(place.path("told")).unwrap().ends_with("scancel 7\n"));
    assert!(!place.path(RUN).join("submit/1").exists());
}

/// Runs the script of the first array with another program, which makes `steps` checkpoints and stops when it is told to;
/// sends `signal`, and gives what the script says, its status, and what was told to SLURM.
fn signalled(place: &Place, signal: &str, steps: usize) -> (String, Option<i32>, String) {
    let program = place.path("program");
    let body = format!(
        "#!/bin/bash\ntrap 'exit 130' TERM\nfor i in $(seq {steps}); do mkdir -p \"$2/checkpoints/step-$RANDOM$i\"; done\n\
         echo ready\nwhile :; do sleep 0.05; done\n"
    );
    write_command(&program, &body);
    let script = fs::read_to_string(place.path(RUN).join("submit/1/array-1.sh")).unwrap();
    let line = script.lines().find(|l| l.starts_with("program=")).unwrap();
    let other = script.replace(line, &format!("program={}", program.display()));
    fs::write(place.path("other.sh"), other).unwrap();
    let (told, said) = (place.path("told"), place.path("said"));
    let _ = fs::remove_file(&told);
    let variables = [("SLURM_ARRAY_JOB_ID", "7"), ("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_CPUS_PER_TASK", "3")];
    let mut child = Command::new("bash")
        .arg(place.path("other.sh"))
        .envs(variables)
        .env("PATH", path_with_slurm(place))
        .env("TOLD", &told)
        .stdout(File::create(&said).unwrap())
        .stderr(File::options().append(true).open(&said).unwrap())
        .spawn()
        .unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap_or_default();
    wait_for("the program", || read(&said).contains("ready"));
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let status = child.wait().unwrap().code();
    let left =
        || Command::new("pgrep").arg("-f").arg(place.path("other.sh")).output().unwrap().status.success();
    wait_for("the end of all that it began", || !left());
    (read(&said), status, read(&told))
}

/// Near its time limit a task goes back into the queue, unless another job would do no more; one that was cancelled does not.
#[test]
fn a_task_that_is_cut_returns_to_the_queue_if_it_came_further() {
    let place = place_with_slurm();
    assert!(to_slurm(&place, &[]).status.success());
    let (said, status, told) = signalled(&place, "-USR1", 1);
    assert!(said.contains("base-seed1: job 7_1 on") && said.contains("3 threads"), "{said}");
    assert!(said.contains("base-seed1: stopped, its state is saved"), "{said}");
    assert_eq!((status, told.as_str()), (Some(130), "scontrol requeue 7_1\n"));
    let (said, status, told) = signalled(&place, "-USR1", 0);
    assert!(said.contains("error: not a step was saved") && said.contains("--sbatch=--time="), "{said}");
    assert_eq!((status, told.as_str()), (Some(1), ""));
    let (_, status, told) = signalled(&place, "-TERM", 1);
    assert_eq!((status, told.as_str()), (Some(130), ""));
}
