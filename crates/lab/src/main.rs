//! The command line of Heldout.

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_core::Error;
use heldout_data::{ImageSet, Summary, find};
use heldout_lab::{
    DescribeRequest, ExportRequest, ForwardRequest, Outcome, Request, RunResult, SampleRequest, Study,
    WeightsChoice, check, describe, export, find_fragment, find_recipe, forward, fragments, free_folder,
    project_root, recipes, resumed, run, sample, write_report,
};
use heldout_weights::presets;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tch::Device;

/// libtorch frees and takes the same large blocks every step: an allocator that keeps its pages saves a third of the time.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Keep pages, and use huge ones where the system has them.
#[allow(unsafe_code, reason = "jemalloc reads its settings from a symbol of this name")]
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 65] = b"dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,metadata_thp:auto\0";

/// Trains diffusion models and measures, while they train, whether they generalise or copy.
#[derive(Debug, Parser)]
#[command(version, about, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a study: every arm of a recipe with every seed, then a report
    ///
    /// Trains, validates on held-out images, watches for copies, and ends with a table, a verdict and report.html in the
    /// run folder. Ctrl-C saves the state; --resume goes on with it. Exit status: 0 done, 1 a file or the training failed,
    /// 2 a setting cannot be honoured, 130 interrupted.
    Experiment(Experiment),
    /// Train one model: the base of a recipe, without its arms, on your own images if you name them
    ///
    /// For images of another shape than the recipe's, set the model's channels too, as in
    /// --set model.in_channels=3 --set model.out_channels=3.
    Train(Train),
    /// Sample images from a trained model, as PNG files and a grid
    ///
    /// Takes the averaged weights of the newest checkpoint. Image i is a function of the seed and of i: asking for more
    /// images leaves the first ones as they were.
    Sample(Sample),
    /// Run a model once on given tensors, to check it
    ///
    /// Reads a folder of diffusers or of ours, a safetensors file in the names of diffusers, the original DiT or ADM, or a
    /// model of the hub by its name. The precision is that of `sample`. The output file holds `sample` and, with
    /// --gradients, `grad.sample` and `grad.PARAMETER` of its mean square.
    Forward(Forward),
    /// Say what a model is and what it costs: parameters, multiply-adds, memory, receptive field
    ///
    /// MODEL is a preset, a model folder or file, a config.json, or the folder of a trained arm. Nothing is allocated for
    /// presets. Presets: dit-s-2 to dit-xl-8, ddpm-cifar10, sd-1.5-unet, sd-2.1-unet, sdxl-unet and others; `heldout
    /// describe list` prints them.
    Describe(Describe),
    /// Write a model as a folder that diffusers opens
    ///
    /// MODEL is the folder of a trained arm or one of its checkpoints, or a model in any layout that `forward` reads.
    /// What diffusers has no class for keeps a class of ours.
    Export(Export),
    /// Make report.html again from the files of a run
    ///
    /// The report is a function of the files: recipe.toml, run.json, metrics.jsonl, result.json and the arms' final samples.
    /// A run that is not finished is shown as far as it got.
    Report {
        /// The run folder
        run: PathBuf,
    },
    /// Say what a data set holds: count, shape, classes, duplicates
    Dataset {
        /// A shipped or fetched name, or a path: IDX file, or folder of PNG and JPEG files
        path: String,
    },
    /// Print a completion script for your shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
struct RunOptions {
    /// Add a technique, or any fragment of a recipe (see experiment --list), to the base; may be given several times
    #[arg(long = "with", value_name = "NAME_OR_PATH")]
    fragments: Vec<String>,
    /// Set a key of the recipe, as in train.steps=500 or arms.small.data.split.n_train=32; wins over the arms
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Seed of a run; may be given several times; replaces the recipe's
    #[arg(long = "seed", value_name = "N")]
    seeds: Vec<u64>,
    /// Folder of the run; runs/RECIPE by default, numbered if it is taken
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on with a run that was cut, to the last bit as if it had not been
    #[arg(long, value_name = "DIR", conflicts_with_all = ["fragments", "sets", "seeds", "out"])]
    resume: Option<PathBuf>,
    /// cpu, or cuda; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    device: Option<Device>,
}

#[derive(Debug, Args)]
struct Experiment {
    /// A recipe that ships (see --list), or a path to a TOML file
    #[arg(default_value = "quickstart")]
    recipe: String,
    #[command(flatten)]
    options: RunOptions,
    /// List the recipes and the techniques that ship
    #[arg(long)]
    list: bool,
    /// Parse the recipe, build every object, run one step of every arm, and keep nothing
    #[arg(long, conflicts_with = "resume")]
    check: bool,
}

#[derive(Debug, Args)]
struct Train {
    /// A recipe that ships, or a path to a TOML file
    #[arg(default_value = "quickstart")]
    recipe: String,
    /// A shipped or fetched data set, or a path to an IDX file or a folder of images
    #[arg(long, value_name = "NAME_OR_PATH")]
    data: Option<String>,
    #[command(flatten)]
    options: RunOptions,
}

#[derive(Debug, Args)]
struct Sample {
    /// Folder of an arm, as runs/quickstart/arms/small-seed0, or one of its checkpoints
    model: PathBuf,
    /// How many images
    #[arg(long, default_value_t = 64)]
    n: usize,
    /// Where they go
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Image i is a function of this seed and of i
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Another sampler or grid than the recipe's, as sample.sampler={kind="unipc",order=2}
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Sampling steps; the recipe's by default
    #[arg(long)]
    steps: Option<usize>,
    #[command(flatten)]
    weights: Weights,
    /// cpu, or cuda; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    device: Option<Device>,
}

#[derive(Debug, Args)]
struct Weights {
    /// Take the best checkpoint by this score, not the newest: generalization is the held-out loss, quality the distance of
    /// samples to held-out images
    #[arg(long, value_name = "SCORE")]
    best: Option<String>,
    /// Take these weights, not those that were evaluated: live, or the name of an average
    #[arg(long = "weights", value_name = "NAME")]
    name: Option<String>,
    /// Make the power-function average of this relative width, as 0.12, from those that the run kept
    #[arg(long, value_name = "SIGMA_REL")]
    width: Option<f64>,
}

impl Weights {
    fn choice(self) -> WeightsChoice {
        WeightsChoice { best: self.best, name: self.name, width: self.width }
    }
}

#[derive(Debug, Args)]
struct Layout {
    /// Which of several precisions of a folder, as fp16
    #[arg(long)]
    variant: Option<String>,
    /// Channels of an attention head, for layouts whose shapes do not tell (ADM: 64 if not given)
    #[arg(long, value_name = "N")]
    head_channels: Option<i64>,
}

#[derive(Debug, Args)]
struct Forward {
    /// A model folder or safetensors file, or OWNER/NAME on the hub
    model: String,
    /// A safetensors file: sample, timestep, and class_labels, encoder_hidden_states, .. where the model takes them
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the output goes, as safetensors
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Gradients of the output's mean square too
    #[arg(long)]
    gradients: bool,
    #[command(flatten)]
    layout: Layout,
    /// cpu, or cuda; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    device: Option<Device>,
}

#[derive(Debug, Args)]
struct Describe {
    /// A preset, a model folder or file, a config.json, or the folder of a trained arm
    model: String,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// Side of the images; that of the configuration by default
    #[arg(long, value_name = "N")]
    size: Option<i64>,
    /// Tokens of a context
    #[arg(long, value_name = "N", default_value_t = 77)]
    tokens: i64,
    /// Images of a training step
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch_size: u64,
    /// Measure the effective receptive field: of a preset, at initialisation, for which it is built in memory
    #[arg(long, overrides_with = "no_receptive_field")]
    receptive_field: bool,
    /// Do not measure it
    #[arg(long)]
    no_receptive_field: bool,
    /// Channels of an attention head, for layouts whose shapes do not tell
    #[arg(long, value_name = "N")]
    head_channels: Option<i64>,
}

#[derive(Debug, Args)]
struct Export {
    /// Folder of an arm or one of its checkpoints; or a model folder or file, or OWNER/NAME on the hub
    model: String,
    /// Where the folder goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    weights: Weights,
    #[command(flatten)]
    layout: Layout,
}

fn device(text: &str) -> Result<Device, String> {
    match text {
        "cpu" => Ok(Device::Cpu),
        "cuda" if Device::cuda_if_available().is_cuda() => Ok(Device::Cuda(0)),
        "cuda" => {
            Err("libtorch finds no CUDA here: `cargo xtask setup --device cuda`, or use cpu".to_owned())
        }
        _ => Err("is neither cpu nor cuda".to_owned()),
    }
}

fn main() -> ExitCode {
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
            check(&study, options.device.unwrap_or_else(Device::cuda_if_available))?;
            println!("{}: {} arms build and run", study.name, study.arms.len());
        }
        Command::Experiment(Experiment { recipe, options, .. }) => return start(&recipe, options, false),
        Command::Train(Train { recipe, data, mut options }) => {
            options.sets.extend(data.map(|d| format!("data.name={:?}", absolute(&d))));
            return start(&recipe, options, true);
        }
        Command::Sample(s) => {
            let device = s.device.unwrap_or_else(Device::cuda_if_available);
            let Sample { model, n, out, seed, steps, sets, weights, .. } = s;
            let weights = &weights.choice();
            let request =
                SampleRequest { model: &model, n, out: &out, seed, steps, sets: &sets, weights, device };
            sample(&request)?;
            println!("{}", out.join("grid.png").display());
        }
        Command::Forward(f) => {
            forward(&ForwardRequest {
                model: &f.model,
                input: &f.input,
                output: &f.output,
                gradients: f.gradients,
                variant: f.layout.variant.as_deref(),
                head_channels: f.layout.head_channels,
                device: f.device.unwrap_or_else(Device::cuda_if_available),
            })?;
            println!("{}", f.output.display());
        }
        Command::Describe(d) if d.model == "list" => {
            presets().iter().for_each(|name| println!("{name}"));
        }
        Command::Describe(d) => {
            let described = describe(&DescribeRequest {
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
        Command::Export(e) => {
            let class = export(&ExportRequest {
                model: &e.model,
                out: &e.out,
                weights: &e.weights.choice(),
                variant: e.layout.variant.as_deref(),
                head_channels: e.layout.head_channels,
            })?;
            println!("{}: {class}", e.out.display());
        }
        Command::Report { run } => println!("{}", write_report(&run)?.display()),
        Command::Dataset { path } => {
            println!("{}", Summary::of(&ImageSet::open(&find(&path, &project_root().join("datasets"))?)?)?);
        }
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "heldout", &mut std::io::stdout());
        }
    }
    Ok(ExitCode::SUCCESS)
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

fn start(recipe: &str, options: RunOptions, single: bool) -> Result<ExitCode> {
    let RunOptions { fragments, sets, seeds, out, resume, device } = options;
    let interrupt = Arc::new(AtomicBool::new(false));
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        flag::register_conditional_shutdown(signal, code, interrupt.clone())?; // the second one ends it at once
        flag::register(signal, interrupt.clone())?;
    }
    let (study, folder) = match &resume {
        Some(folder) => (resumed(folder)?, folder.clone()),
        None => {
            let study = read(recipe, &fragments, sets, &seeds)?;
            let study = if single { study.without_arms()? } else { study };
            let folder = out.unwrap_or_else(|| free_folder(&study.name));
            (study, folder)
        }
    };
    let request = Request {
        study: &study,
        folder: &folder,
        resume: resume.is_some(),
        command: command_line(),
        device: device.unwrap_or_else(Device::cuda_if_available),
        interrupt: &interrupt,
    };
    match run(&request)? {
        Outcome::Done(result) => {
            print_result(&result);
            println!("{}", folder.join("report.html").display());
            Ok(ExitCode::SUCCESS)
        }
        Outcome::Interrupted => {
            eprintln!("interrupted; the state is saved. Go on with --resume {}", folder.display());
            Ok(ExitCode::from(130))
        }
    }
}

/// The arguments as they were given, after the name of the project's own entry point.
fn command_line() -> String {
    let args = std::env::args().skip(1);
    let quoted = args.map(|a| if a.contains([' ', '"', '*']) { format!("'{a}'") } else { a });
    format!("cargo xtask {}", quoted.collect::<Vec<_>>().join(" "))
}

fn print_result(result: &RunResult) {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "arm",
        "seed",
        "train images",
        "f_mem [95 %]",
        "floor",
        "copier",
        "loss: train",
        "held out",
        "gap",
        "time",
    ]);
    for a in &result.arms {
        table.add_row([
            a.name.clone(),
            a.seed.to_string(),
            a.n_train.to_string(),
            format!("{:.3} [{:.3}, {:.3}]", a.f_mem, a.f_mem_ci[0], a.f_mem_ci[1]),
            format!("{:.3}", a.f_mem_floor),
            format!("{:.2}", a.f_mem_copier),
            format!("{:.4}", a.loss_train),
            format!("{:.4}", a.loss_held_out),
            format!("{:+.4}", a.loss_held_out - a.loss_train),
            format!("{:.0} s", a.seconds),
        ]);
    }
    println!("{table}\n\nHeld-out minus training loss, per noise level (log SNR):");
    let mut gaps = Table::new();
    let levels = result.arms.first().map_or(&[][..], |a| &a.gap_by_level);
    let header = ["arm".to_owned(), "seed".to_owned()].into_iter();
    gaps.load_preset(UTF8_FULL_CONDENSED)
        .set_header(header.chain(levels.iter().map(|l| l.log_snr.to_string())));
    for a in &result.arms {
        let cells = a.gap_by_level.iter().map(|l| format!("{:+.4}", l.gap));
        gaps.add_row([a.name.clone(), a.seed.to_string()].into_iter().chain(cells));
    }
    println!("{gaps}\n\n{}", result.verdict);
}
