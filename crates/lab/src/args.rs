//! Arguments of the command line.

use crate::measure::{Audit, Metrics};
use crate::sampling::Sample;
use clap::{Args, Parser, Subcommand};
use heldout_core::Error;
use heldout_data::PixelRange;
use heldout_lab::{Executor, FileKind, Outcome, WeightsChoice};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use tch::Device;

/// Trains diffusion models and measures, while they train, whether they generalise or copy.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a study: every arm of a recipe with every seed, then a report
    ///
    /// Trains, validates on held-out images, watches for copies, and ends with a table, a verdict and report.html in the
    /// run folder. Arms run side by side, each in a process of its own. Ctrl-C saves the state; the same command, or
    /// --resume, goes on with it: what is done stays as long as its recipe, data and program are the same. Exit status: 0
    /// done, 1 a file or an arm failed, 2 a setting cannot be honoured, 130 interrupted.
    Experiment(Experiment),
    /// Run one arm of a study whose folder was made, and tell of it in JSON lines
    ///
    /// What `experiment` starts for every arm and seed; it stops, its state saved, when its standard input ends. Exit status:
    /// 0 done, 1 failed, 130 interrupted.
    #[command(hide = true)]
    Arm {
        /// The arm's folder, as runs/quickstart/arms/small-seed0
        folder: PathBuf,
        /// Time a few steps instead, and say in JSON what the whole would take
        #[arg(long)]
        calibrate: bool,
        /// Nobody listens: tell of it in lines for people, and stop at signals alone
        #[arg(long, conflicts_with = "calibrate")]
        alone: bool,
        /// cpu, cuda or cuda:N; by default cuda where libtorch finds it
        #[arg(long, value_parser = device)]
        device: Option<Device>,
    },
    /// Make the report of a study that was submitted, as far as it got: the last job of --submit
    #[command(hide = true)]
    Finish {
        /// The run folder
        run: PathBuf,
    },
    /// Run the scripts of a submission on this machine: what --submit local starts
    #[command(hide = true)]
    Execute(Execute),
    /// Train one model: the base of a recipe, without its arms, on your own images if you name them
    ///
    /// For images of another shape than the recipe's, set the model's channels too, as in
    /// --set model.in_channels=3 --set model.out_channels=3. For a set with fewer images than the recipe takes,
    /// --set data.split.n_train=N --set data.split.held_out=M; `advise` writes a recipe that fits.
    Train(Train),
    /// Say after how many steps a long run would begin to memorise, from short ones on parts of its training images
    ///
    /// Supposes that the onset grows in proportion to the number of training images; on our images it grew faster, so that the
    /// step comes early (docs/results/memorisation-onset.md). Trains the base of a recipe on an eighth and a quarter of them
    /// until the held-out loss rises, and ends with the step at which the whole run should stop, its 95 % interval and stop.json
    /// in the run folder. Two pilots of one seed give a very wide interval: give several --seed.
    StopStep(StopStep),
    /// Measure what techniques cost: a training step with each alone beside the same step without any
    ///
    /// In turns within one process, on the base of a recipe without its own techniques. Keep the machine quiet.
    Cost(CostArgs),
    /// Propose a recipe for a data set, and say why
    ///
    /// Reads the number of images, their shape, duplicates and labels, and the parameters of the model. Prints a recipe whose
    /// comments are the reasons; --out writes it.
    Advise(Advise),
    /// Say whether a set of generated images copies its training images, and how it stands beside real ones
    ///
    /// For images of any model, in any language: folders, IDX, safetensors, npy. Near copies are looked for in pixels, over
    /// flips and shifts by a pixel, beside the same of real images that were not trained on; distances and variety in the
    /// features of a network. Ends with a verdict, audit.json and audit.html.
    Audit(Audit),
    /// Take metrics of feature matrices that any program computed
    ///
    /// Every number stands beside the same against held-out rows, and beside what real data would score.
    Metrics(Metrics),
    /// Sample images from a trained model or from a pipeline of diffusers, as PNG files and a grid
    ///
    /// Of a model trained here: takes the averaged weights of the newest checkpoint. Of a folder with model_index.json: what
    /// it takes, a text (--prompt), a class (--class) or nothing, and images to follow (--control). Image i is a function of
    /// the seed and of i: asking for more images leaves the first ones as they were.
    Sample(Sample),
    /// Run a model once on given tensors, to check it
    ///
    /// Reads a folder of diffusers or of ours, a safetensors file in the names of diffusers, the original DiT or ADM, or a
    /// model of the hub by its name. The precision is that of `sample`. The output file holds `sample` of a network;
    /// `reconstruction` and `moments` or `latents` of an autoencoder; `down_block_res_samples.I` and `mid_block_res_sample` of
    /// a ControlNet; with --gradients `grad.sample` and `grad.PARAMETER` of its mean square.
    Forward(Forward),
    /// Say what a model is and what it costs: parameters, multiply-adds, memory, receptive field
    ///
    /// MODEL is a preset, a model folder or file (network, autoencoder or ControlNet), a config.json, the folder of a trained
    /// arm, or a pipeline, of which each part is described. Nothing is allocated for presets. Presets: dit-s-2 to dit-xl-8,
    /// ddpm-cifar10, sd-1.5-unet, sdxl-unet, vae-kl-f8, sd-1.5-controlnet and others; `heldout describe list` prints them.
    Describe(Describe),
    /// Say why a trained model stands where it stands: copier, underfitted, in a sharp minimum, or missing modes
    ///
    /// Per noise level: held-out minus training loss, the distance from the closed-form denoiser that memorises the training
    /// set, and how far the network looks. Of the weights: curvature of the loss and gradient noise scale. Of the final
    /// samples: classes that they miss. With --other the loss on the line between two models of one architecture.
    Diagnose(Diagnose),
    /// Train an autoencoder for latents, and write it as a folder that diffusers opens
    ///
    /// Ends with autoencoder/ (its latents brought to unit variance, channel by channel), autoencoder.json (PSNR, SSIM and
    /// error of training and of held-out images, and what the latents look like) and reconstructions.png. A recipe's table
    /// latent = { autoencoder = "DIR" } then diffuses its latents. The same command goes on with a run that was cut.
    TrainAutoencoder(TrainAutoencoder),
    /// Write a model as a folder that diffusers opens
    ///
    /// MODEL is the folder of a trained arm or one of its checkpoints, or a model in any layout that `forward` reads.
    /// What diffusers has no class for keeps a class of ours. With --pipeline an arm becomes a DDPMPipeline (a unet of images
    /// that is told nothing) or a DiTPipeline (a dit of latents), which `heldout sample` and diffusers open.
    Export(Export),
    /// Make report.html again from the files of a run
    ///
    /// The report is a function of the files: recipe.toml, run.json, study.json, and records, results and samples of the arms.
    /// A run that is not finished is shown as far as it got.
    Report {
        /// The run folder
        run: PathBuf,
        /// Write the study as Markdown with its figures into this folder instead, as docs/results
        #[arg(long, value_name = "DIR")]
        results: Option<PathBuf>,
    },
    /// Compare runs: the arms of the first beside those of the others, paired by seed
    ///
    /// For every arm that a run has in common with the first: what differs between the recipes, and the differences with their
    /// 95 % intervals and what they show, adjusted for all arms (Holm).
    Compare {
        /// Run folders; the first is the baseline
        #[arg(required = true, num_args = 2.., value_name = "RUN")]
        runs: Vec<PathBuf>,
        /// By what: loss_held_out, loss_train, gap, f_mem, f_mem_transformed, quality, motion, edge_f1, hint_distance, diversity,
        /// composed, or a metric of monitor.metrics but c_t and fld_gap; may be given several times
        #[arg(long = "outcome", value_name = "NAME", default_values = ["loss_held_out", "f_mem", "quality"])]
        outcomes: Vec<Outcome>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Say what a data set holds: count, shape, classes, duplicates
    Dataset {
        /// A shipped or fetched name, or a path: folder of PNG and JPEG files, IDX, .npy, .npz or .safetensors
        path: String,
    },
    /// Say what in a data set would make a model copy it: repetitions, labels, size
    ///
    /// Finds images that are equal or nearly so (flips, shifts by a pixel and up to 5 % of brightness count as equal), labels that are
    /// unique or might as well be random, images of one colour and files that cannot be read, and says what to expect.
    /// DATA is anything that `dataset` reads, or a folder of images of any sizes, gone through with its subfolders.
    AuditData(AuditData),
    /// Print the JSON schema of a kind of file: editors complete recipes by it, and programs check study.json
    Schema {
        /// Which
        kind: FileKind,
    },
    /// Print a completion script for your shell
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct RunOptions {
    /// Add a technique, or any fragment of a recipe (see experiment --list), to the base; may be given several times
    #[arg(long = "with", value_name = "NAME_OR_PATH")]
    pub(crate) fragments: Vec<String>,
    /// Set a key of the recipe, as in train.steps=500 or arms.small.data.split.n_train=32; wins over the arms
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Seed of a run; may be given several times; replaces the recipe's
    #[arg(long = "seed", value_name = "N")]
    pub(crate) seeds: Vec<u64>,
    /// Folder of the run; runs/RECIPE by default, numbered where --with or --set change the recipe; of train and stop-step the first
    /// that is free
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Go on with the study in a folder as its recipe.toml has it; what was cut ends to the last bit as if it had not been
    #[arg(long, value_name = "DIR", conflicts_with_all = ["fragments", "sets", "seeds", "out"])]
    pub(crate) resume: Option<PathBuf>,
    /// Keep what another build of this program did, instead of making it anew (with --resume always)
    #[arg(long)]
    pub(crate) any_code: bool,
    /// Arms that run side by side; by default as many as there are cores, as far as memory allows, one on a GPU, and all on a cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(NonZeroUsize))]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// cpu, cuda or cuda:N; by default cuda where libtorch finds it, and on a cluster where --sbatch asks for GPUs
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
}

#[derive(Debug, Args)]
pub(crate) struct Execute {
    /// Its folder, as runs/quickstart/submit/1
    pub(crate) submission: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Experiment {
    /// A recipe that ships (see --list), or a path to a TOML file
    #[arg(default_value = "quickstart")]
    pub(crate) recipe: String,
    #[command(flatten)]
    pub(crate) options: RunOptions,
    /// List the recipes and the techniques that ship
    #[arg(long)]
    pub(crate) list: bool,
    /// Run every arm for two steps with few images of everything, to its report, in runs/RECIPE-smoke
    #[arg(long, conflicts_with = "resume")]
    pub(crate) smoke: bool,
    /// The same in one process, and keep nothing
    #[arg(long, conflicts_with_all = ["resume", "smoke"])]
    pub(crate) check: bool,
    /// Say what is left to do, and what time and memory it will take, from a few steps of every arm
    #[arg(long, conflicts_with = "check")]
    pub(crate) dry_run: bool,
    /// Submit an array job, a task for every arm and seed, and a job for the report: to slurm, or to a process in the background
    /// of this machine (local); with --dry-run say what would be submitted. On slurm --jobs limits the tasks at a time, each has
    /// as many threads as OMP_NUM_THREADS says, or 1, and a GPU where --sbatch asks for one or --device cuda does. Again, it submits what has no result
    #[arg(long, value_name = "slurm|local", value_parser = executor, conflicts_with_all = ["check", "smoke", "list"])]
    pub(crate) submit: Option<Executor>,
    /// An option for sbatch, as in --sbatch=--partition=gpu; may be given several times
    #[arg(long, value_name = "OPTION", requires = "submit", allow_hyphen_values = true)]
    pub(crate) sbatch: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    /// A recipe that ships, or a path to a TOML file
    #[arg(default_value = "quickstart")]
    pub(crate) recipe: String,
    /// A shipped or fetched data set, or a path to an IDX file or a folder of images
    #[arg(long, value_name = "NAME_OR_PATH")]
    pub(crate) data: Option<String>,
    #[command(flatten)]
    pub(crate) options: RunOptions,
}

#[derive(Debug, Args)]
pub(crate) struct StopStep {
    /// A recipe that ships, or a path to a TOML file
    #[arg(default_value = "quickstart")]
    pub(crate) recipe: String,
    /// Into how many parts the training images fall, of which a pilot sees one
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "8,4")]
    pub(crate) pilots: Vec<usize>,
    /// Validations without a lower held-out loss that end a pilot
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub(crate) patience: u64,
    #[command(flatten)]
    pub(crate) options: RunOptions,
}

#[derive(Debug, Args)]
pub(crate) struct CostArgs {
    /// A recipe that ships, or a path to a TOML file
    #[arg(default_value = "quickstart")]
    pub(crate) recipe: String,
    /// A technique (see experiment --list) or a path; may be given several times; all that ship by default
    #[arg(long = "with", value_name = "NAME_OR_PATH")]
    pub(crate) fragments: Vec<String>,
    /// Set a key of the recipe
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// How often the two take turns
    #[arg(long, default_value_t = 9)]
    pub(crate) rounds: usize,
    /// Steps of a turn
    #[arg(long, default_value_t = 10)]
    pub(crate) steps: u64,
    /// One JSON object a line
    #[arg(long)]
    pub(crate) json: bool,
    /// cpu, cuda or cuda:N; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
}

#[derive(Debug, Args)]
pub(crate) struct Advise {
    /// A shipped or fetched data set, or a path to an IDX file or a folder of images
    pub(crate) data: String,
    /// A preset or a config.json to train; a small UNet for the images' size by default
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Where the recipe goes
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Weights {
    /// Take the best checkpoint by this score, not the newest: generalization is the held-out loss, quality the distance of
    /// samples to held-out images
    #[arg(long, value_name = "SCORE")]
    pub(crate) best: Option<String>,
    /// Take these weights, not those that were evaluated: live, or the name of an average
    #[arg(long = "weights", value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Make the power-function average of this relative width, as 0.12, from those that the run kept
    #[arg(long, value_name = "SIGMA_REL")]
    pub(crate) width: Option<f64>,
}

impl Weights {
    pub(crate) fn choice(self) -> WeightsChoice {
        WeightsChoice { best: self.best, name: self.name, width: self.width }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Layout {
    /// Which of several precisions of a folder, as fp16
    #[arg(long)]
    pub(crate) variant: Option<String>,
    /// Channels of an attention head, for layouts whose shapes do not tell (ADM: 64 if not given)
    #[arg(long, value_name = "N")]
    pub(crate) head_channels: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct Forward {
    /// A model folder or safetensors file, or OWNER/NAME on the hub
    pub(crate) model: String,
    /// A safetensors file: sample, timestep, and class_labels, encoder_hidden_states, .. where the model takes them
    #[arg(long, value_name = "FILE")]
    pub(crate) input: PathBuf,
    /// Where the output goes, as safetensors
    #[arg(long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Gradients of the output's mean square too
    #[arg(long)]
    pub(crate) gradients: bool,
    #[command(flatten)]
    pub(crate) layout: Layout,
    /// cpu, cuda or cuda:N; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
}

#[derive(Debug, Args)]
pub(crate) struct Describe {
    /// A preset, a model folder or file, a config.json, the folder of a trained arm or of a pipeline, or OWNER/NAME on the hub
    pub(crate) model: String,
    /// One JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Side of the images; that of the configuration by default
    #[arg(long, value_name = "N")]
    pub(crate) size: Option<i64>,
    /// Tokens of a context
    #[arg(long, value_name = "N", default_value_t = 77)]
    pub(crate) tokens: i64,
    /// Images of a training step
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) batch_size: u64,
    /// Measure the effective receptive field: of a preset, at initialisation, for which it is built in memory
    #[arg(long, overrides_with = "no_receptive_field")]
    pub(crate) receptive_field: bool,
    /// Do not measure it
    #[arg(long)]
    pub(crate) no_receptive_field: bool,
    /// Channels of an attention head, for layouts whose shapes do not tell
    #[arg(long, value_name = "N")]
    pub(crate) head_channels: Option<i64>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditData {
    /// A shipped or fetched data set; a folder of images; an IDX, .npy, .npz or .safetensors file, as FILE or FILE:ARRAY
    pub(crate) data: String,
    /// A preset, a model folder or file, or the folder of a trained arm, to say whether it could copy the set
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<String>,
    /// What floats of arrays mean: unit is [0, 1], signed is [-1, 1]; by default their minimum says it
    #[arg(long, value_name = "RANGE", value_parser = floats)]
    pub(crate) floats: Option<PixelRange>,
    /// One JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// An HTML page with pictures of the repetitions
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Diagnose {
    /// Folder of an arm, as runs/quickstart/arms/small-seed0, or one of its checkpoints
    pub(crate) model: PathBuf,
    /// Another arm or checkpoint of the same architecture: the loss on the line to it
    #[arg(long, value_name = "ARM")]
    pub(crate) other: Option<PathBuf>,
    /// Noise levels, evenly between the ends of the recipe's validation
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub(crate) levels: usize,
    /// Held-out images, and as many training images
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) images: usize,
    /// Seed of all draws
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// One JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) weights: Weights,
    /// cpu, cuda or cuda:N; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
}

#[derive(Debug, Args)]
pub(crate) struct TrainAutoencoder {
    /// A recipe that ships (pixel-faces), or a path to a TOML file
    #[arg(default_value = "pixel-faces")]
    pub(crate) recipe: String,
    /// A shipped or fetched data set, or a path to an IDX file or a folder of images
    #[arg(long, value_name = "NAME_OR_PATH")]
    pub(crate) data: Option<String>,
    /// Set a key of the recipe, as in train.steps=500
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) sets: Vec<String>,
    /// Folder of the run; runs/autoencoder-RECIPE by default
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// cpu, cuda or cuda:N; by default cuda where libtorch finds it
    #[arg(long, value_parser = device)]
    pub(crate) device: Option<Device>,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Folder of an arm or one of its checkpoints; or a model folder or file, or OWNER/NAME on the hub
    pub(crate) model: String,
    /// Where the folder goes
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// A whole pipeline: with the scheduler of the arm's recipe and the autoencoder of its latents
    #[arg(long)]
    pub(crate) pipeline: bool,
    #[command(flatten)]
    pub(crate) weights: Weights,
    #[command(flatten)]
    pub(crate) layout: Layout,
}

pub(crate) fn floats(text: &str) -> Result<PixelRange, String> {
    match text {
        "unit" => Ok(PixelRange::Unit),
        "signed" => Ok(PixelRange::Signed),
        _ => Err("is neither unit nor signed".to_owned()),
    }
}

fn executor(text: &str) -> Result<Executor, String> {
    match text {
        "slurm" => Ok(Executor::Slurm),
        "local" => Ok(Executor::Local),
        _ => Err("is neither slurm nor local".to_owned()),
    }
}

pub(crate) fn device(text: &str) -> Result<Device, String> {
    if text == "cpu" {
        return Ok(Device::Cpu);
    }
    let place = match text.strip_prefix("cuda") {
        Some("") => Some(0),
        Some(rest) => rest.strip_prefix(':').and_then(|place| place.parse::<usize>().ok()),
        None => None,
    };
    Ok(Device::Cuda(place.ok_or("is none of cpu, cuda and cuda:N")?))
}

/// What `--device` names, if it is here; without one a GPU, where there is any.
pub(crate) fn device_here(named: Option<Device>) -> anyhow::Result<Device> {
    let Some(Device::Cuda(place)) = named else { return Ok(named.unwrap_or_else(Device::cuda_if_available)) };
    let reason = match tch::Cuda::device_count() {
        n if place < n.max(0) as usize => return Ok(Device::Cuda(place)),
        0 => "libtorch finds no GPU here: `cargo xtask setup --device cuda`, or use cpu".to_owned(),
        n => format!("there are {n} GPUs here, cuda:0 to cuda:{}", n - 1),
    };
    Err(Error::config(format!("--device cuda:{place}"), reason).into())
}
