//! The command line of Heldout.

mod args;
mod measure;
mod sampling;
mod submitting;
mod tables;

use anyhow::Result;
use args::{Cli, Command, CostArgs, Experiment, RunOptions, Train, TrainAutoencoder, device_here};
use clap::{CommandFactory, Parser};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_core::Error;
use heldout_data::{ImageSet, Summary, find};
use heldout_lab::{
    AuditDataRequest, AutoencoderRecipe, AutoencoderRequest, Cost, CostRequest, DescribeRequest,
    DiagnoseRequest, Estimate, ExportRequest, ForwardRequest, Request, RunEnding, Study, StudyResult,
    WorkerEnding, Workers, advise, audit_data, calibrate, check, compare_runs, costs, describe_any, diagnose,
    estimates, export, find_autoencoder, find_fragment, find_recipe, forward, fragments, free_folder, pilots,
    project_root, recipes, resumed, run, schema, stop_step, study_folder, train_autoencoder, work,
    write_report, write_results,
};
use heldout_train::write_atomically;
use heldout_weights::presets;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tables::{print_comparison, print_result, print_stop, show_plan};
use tch::Device;

/// libtorch frees and takes the same large blocks every step: an allocator that keeps its pages saves a third of the time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Keep pages, and use huge ones where the system has them.
#[allow(unsafe_code, reason = "jemalloc reads its settings from a symbol of this name")]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 65] = b"dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,metadata_thp:auto\0";

fn main() -> ExitCode {
    if Device::cuda_if_available().is_cuda() {
        heldout_torch_ext::reproducible();
    }
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("error: {e:#}");
            let usage = e.chain().any(|c| matches!(c.downcast_ref::<Error>(), Some(Error::Config { .. })));
            ExitCode::from(if usage { 2 } else { 1 })
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Experiment(Experiment { list: true, .. }) => {
            for (name, path) in recipes() {
                println!("{name:24} {}", Study::read(&path, &[])?.question);
            }
            println!("\nTechniques, for --with:");
            for (name, path) in fragments() {
                let text = std::fs::read_to_string(&path)?;
                let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
                println!("{name:24} {title}");
            }
        }
        Command::Experiment(Experiment { recipe, options, check: true, .. }) => {
            let study = read(&recipe, &options.fragments, options.sets, &options.seeds)?;
            check(&study, device_here(options.device)?)?;
            println!("{}: {} arms build and run", study.name, study.arms.len());
        }
        Command::Experiment(e @ Experiment { submit: Some(executor), .. }) => return e.submit(executor),
        Command::Experiment(Experiment { recipe, options, dry_run, smoke, .. }) => {
            let change = if smoke { Study::smoke } else { Ok };
            if dry_run {
                return print_plan(&recipe, options, change);
            }
            let changed = !(options.fragments.is_empty() && options.sets.is_empty());
            return start(&recipe, options, change, |study| study_folder(study, changed), |_, _| Ok(()));
        }
        Command::Arm { folder, calibrate: true, device, .. } => {
            println!("{}", serde_json::to_string(&calibrate(&folder, device_here(device)?)?)?);
        }
        Command::Arm { folder, alone, device, .. } => {
            let device = device_here(device)?;
            let ending = if alone {
                submitting::run_alone(&folder, device)?
            } else {
                work(&folder, device, &interruptible()?)?
            };
            return Ok(match ending {
                WorkerEnding::Done => ExitCode::SUCCESS,
                WorkerEnding::Failed => ExitCode::FAILURE,
                WorkerEnding::Interrupted => ExitCode::from(130),
            });
        }
        Command::Finish { run } => return submitting::finish_run(&run),
        Command::Execute(e) => return e.run(),
        Command::Train(Train { recipe, data, mut options }) => {
            options.sets.extend(data.map(|d| format!("data.name={:?}", absolute(&d))));
            return start(&recipe, options, Study::without_arms, |s| free_folder(&s.name), |_, _| Ok(()));
        }
        Command::StopStep(s) => {
            let change = |study: Study| pilots(&study, &s.pilots, s.patience);
            return start(
                &s.recipe,
                s.options,
                change,
                |s| free_folder(&s.name),
                |study, folder| {
                    print_stop(&stop_step(study, folder)?, study.arms[0].1.train.steps);
                    Ok(())
                },
            );
        }
        Command::Cost(c) => print_costs(&c)?,
        Command::Advise(a) => {
            let advice = advise(&a.data, a.model.as_deref())?;
            match a.out {
                Some(out) => {
                    write_atomically(&out, advice.as_bytes())?;
                    println!("{}", out.display());
                }
                None => print!("{advice}"),
            }
        }
        Command::Audit(a) => return a.run(),
        Command::Metrics(m) => return m.run(),
        Command::Sample(s) => s.run()?,
        Command::TrainAutoencoder(t) => return train_an_autoencoder(t),
        Command::Forward(f) => {
            forward(&ForwardRequest {
                model: &f.model,
                input: &f.input,
                output: &f.output,
                gradients: f.gradients,
                variant: f.layout.variant.as_deref(),
                head_channels: f.layout.head_channels,
                device: device_here(f.device)?,
            })?;
            println!("{}", f.output.display());
        }
        Command::Describe(d) if d.model == "list" => {
            presets().iter().for_each(|name| println!("{name}"));
        }
        Command::Describe(d) => {
            let described = describe_any(&DescribeRequest {
                model: &d.model,
                side: d.size,
                tokens: d.tokens,
                batch_size: d.batch_size,
                receptive_field: d.receptive_field.then_some(true).or(d.no_receptive_field.then_some(false)),
                head_channels: d.head_channels,
            })?;
            if d.json {
                println!("{}", serde_json::to_string_pretty(&described)?);
            } else {
                println!("{described}");
            }
        }
        Command::Diagnose(d) => {
            let diagnosis = diagnose(&DiagnoseRequest {
                model: &d.model,
                other: d.other.as_deref(),
                levels: d.levels,
                images: d.images,
                seed: d.seed,
                weights: &d.weights.choice(),
                device: device_here(d.device)?,
            })?;
            if d.json {
                println!("{}", serde_json::to_string_pretty(&diagnosis)?);
            } else {
                println!("{diagnosis}");
            }
        }
        Command::Export(e) => {
            let class = export(&ExportRequest {
                model: &e.model,
                out: &e.out,
                weights: &e.weights.choice(),
                variant: e.layout.variant.as_deref(),
                head_channels: e.layout.head_channels,
                pipeline: e.pipeline,
            })?;
            println!("{}: {class}", e.out.display());
        }
        Command::Compare { runs, outcomes, json } => {
            let compared = compare_runs(&runs, &outcomes)?;
            if json {
                println!("{}", serde_json::to_string_pretty(&compared)?);
            } else {
                print_comparison(&compared);
            }
        }
        Command::Report { run, results: Some(folder) } => {
            println!("{}", write_results(&run, &folder)?.display());
        }
        Command::Report { run, results: None } => println!("{}", write_report(&run)?.display()),
        Command::Dataset { path } => {
            println!("{}", Summary::of(&ImageSet::open(&find(&path, &project_root().join("datasets"))?)?)?);
        }
        Command::AuditData(a) => {
            let request = AuditDataRequest { data: &a.data, model: a.model.as_deref(), range: a.floats };
            let audit = audit_data(&request)?;
            if let Some(out) = &a.out {
                write_atomically(out, audit.page()?.as_bytes())?;
            }
            match (a.json, &a.out) {
                (true, _) => println!("{}", serde_json::to_string_pretty(&audit)?),
                (false, Some(out)) => println!("{audit}\n\n{}", out.display()),
                (false, None) => println!("{audit}"),
            }
        }
        Command::Schema { kind } => println!("{}", schema(kind)?),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "heldout", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_costs(c: &CostArgs) -> Result<()> {
    let named = |name: &String| Ok((name.clone(), find_fragment(name)?));
    let chosen: Vec<_> = match c.fragments.is_empty() {
        true => fragments(),
        false => c.fragments.iter().map(named).collect::<Result<_>>()?,
    };
    let request = CostRequest {
        recipe: &find_recipe(&c.recipe)?,
        fragments: &chosen,
        sets: &c.sets,
        rounds: c.rounds,
        steps: c.steps,
        device: device_here(c.device)?,
    };
    for (name, cost) in costs(&request)? {
        match cost {
            Ok(cost) if c.json => println!("{}", serde_json::to_string(&cost)?),
            Ok(Cost { ratio, range: [low, high], without_ms, with_ms, .. }) => println!(
                "{name:24} {ratio:6.3} ({low:.3} to {high:.3})  {with_ms:8.2} beside {without_ms:.2} ms"
            ),
            Err(e) => println!("{name:24} not here: {e:#}"),
        }
    }
    Ok(())
}

/// A path as it will be found from anywhere; a name as it is.
fn absolute(data: &str) -> String {
    std::fs::canonicalize(data).map_or_else(|_| data.to_owned(), |p| p.to_string_lossy().into_owned())
}

fn read(recipe: &str, fragments: &[String], mut sets: Vec<String>, seeds: &[u64]) -> Result<Study> {
    if !seeds.is_empty() {
        sets.push(format!("seeds={seeds:?}"));
    }
    let fragments = fragments.iter().map(|name| find_fragment(name)).collect::<Result<Vec<_>>>()?;
    Study::read_with(&find_recipe(recipe)?, &fragments, &sets)
}

/// A flag that the first signal sets; the second one ends the process.
fn interruptible() -> Result<Arc<AtomicBool>> {
    let interrupt = Arc::new(AtomicBool::new(false));
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        flag::register_conditional_shutdown(signal, code, interrupt.clone())?;
        flag::register(signal, interrupt.clone())?;
    }
    Ok(interrupt)
}

fn train_an_autoencoder(t: TrainAutoencoder) -> Result<ExitCode> {
    let mut sets = t.sets;
    sets.extend(t.data.map(|d| format!("data.name={:?}", absolute(&d))));
    let recipe = AutoencoderRecipe::read(&find_autoencoder(&t.recipe)?, &sets)?;
    let folder =
        t.out.unwrap_or_else(|| project_root().join("runs").join(format!("autoencoder-{}", recipe.name)));
    let found = train_autoencoder(&AutoencoderRequest {
        recipe: &recipe,
        folder: &folder,
        device: device_here(t.device)?,
        interrupt: &*interruptible()?,
    })?;
    let Some(result) = found else {
        eprintln!("interrupted; the state is saved. The same command goes on with {}", folder.display());
        return Ok(ExitCode::from(130));
    };
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(["", "training images", "held-out images"]);
    for ((name, train), (_, held_out)) in result.train.named().into_iter().zip(result.held_out.named()) {
        table.add_row([name, format!("{train:.4}"), format!("{held_out:.4}")]);
    }
    println!("{table}\nlatents of training images:\n{}", result.latents);
    println!("{}", folder.join("autoencoder").display());
    Ok(ExitCode::SUCCESS)
}

/// Runs a recipe, or what `change` makes of it, where `place` says, and then `finish` on the run folder.
fn start(
    recipe: &str,
    options: RunOptions,
    change: impl FnOnce(Study) -> Result<Study>,
    place: impl FnOnce(&Study) -> PathBuf,
    finish: impl FnOnce(&Study, &Path) -> Result<()>,
) -> Result<ExitCode> {
    let RunOptions { fragments, sets, seeds, out, resume, any_code, jobs, device } = options;
    let interrupt = interruptible()?;
    let (study, folder) = match &resume {
        Some(folder) => (resumed(folder)?, folder.clone()),
        None => {
            let study = read(recipe, &fragments, sets, &seeds)?;
            let study = change(study)?;
            let folder = out.unwrap_or_else(|| place(&study));
            (study, folder)
        }
    };
    let device = device_here(device)?;
    let request = Request {
        study: &study,
        folder: &folder,
        any_code: any_code || resume.is_some(),
        command: command_line(),
        device,
        workers: Some(Workers::new(jobs.map(usize::from), study.arms.len() * study.seeds.len(), device)),
        interrupt: &interrupt,
    };
    match run(&request)? {
        RunEnding::Done(result) => {
            let code = print_outcome(&result);
            if !result.failures.is_empty() {
                return Ok(code);
            }
            finish(&study, &folder)?;
            println!("{}", folder.join("report.html").display());
            Ok(code)
        }
        RunEnding::Interrupted => {
            if folder.join("recipe.toml").is_file() {
                eprintln!("interrupted; the state is saved. Go on with --resume {}", folder.display());
            } else {
                eprintln!("interrupted before the run began; the same command goes on");
            }
            Ok(ExitCode::from(130))
        }
    }
}

/// The study that is asked for, or what `change` makes of it, its folder, and whether results of other builds count.
fn chosen(
    recipe: &str,
    options: RunOptions,
    change: impl FnOnce(Study) -> Result<Study>,
) -> Result<(Study, PathBuf, bool)> {
    if let Some(folder) = options.resume {
        return Ok((resumed(&folder)?, folder, true));
    }
    let changed = !(options.fragments.is_empty() && options.sets.is_empty());
    let study = change(read(recipe, &options.fragments, options.sets, &options.seeds)?)?;
    let folder = options.out.unwrap_or_else(|| study_folder(&study, changed));
    Ok((study, folder, options.any_code))
}

/// What an experiment would do, and what it would take.
fn print_plan(
    recipe: &str,
    options: RunOptions,
    change: impl FnOnce(Study) -> Result<Study>,
) -> Result<ExitCode> {
    let (device, jobs) = (device_here(options.device)?, options.jobs);
    let (study, folder, any_code) = chosen(recipe, options, change)?;
    let workers = Workers::new(jobs.map(usize::from), study.arms.len() * study.seeds.len(), device);
    let Some(plan) = estimates(&study, &folder, device, workers, any_code, &*interruptible()?)? else {
        return Ok(ExitCode::from(130));
    };
    show_plan(&study, &plan, &folder, workers);
    let fails = |line: &Estimate| matches!(line.calibration, Some(Err(_)));
    Ok(if plan.iter().any(fails) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The arguments as they were given, after what takes them: `cargo xtask` knows `experiment` alone.
fn command_line() -> String {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_experiment = args.first().is_some_and(|a| a == "experiment");
    let program = if is_experiment { "cargo xtask" } else { "target/debug/heldout" };
    let quoted = args.into_iter().map(|a| if a.contains([' ', '"', '*']) { format!("'{a}'") } else { a });
    format!("{program} {}", quoted.collect::<Vec<_>>().join(" "))
}

/// Prints the results, and why others are missing.
fn print_outcome(result: &StudyResult) -> ExitCode {
    if !result.arms.is_empty() {
        print_result(result);
    }
    for f in &result.failures {
        eprintln!("error: {} seed {}: {}", f.name, f.seed, f.reason);
    }
    if result.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
