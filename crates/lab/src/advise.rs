//! A recipe for a data set, with its reasons.

use crate::dirs::project_root;
use crate::recipe::Study;
use anyhow::{Result, anyhow};
use heldout_core::{Error, Params};
use heldout_data::{ImageSet, Summary, find};
use heldout_nn::without_storage;
use heldout_weights::{ModelConfig, preset};
use std::fmt::Write;
use std::path::Path;
use tch::{Device, nn};

/// Images below which the network is told how its images were moved, and loses activations.
const FEW: usize = 5_000;
/// Images below which labels by class are too thin to learn classes from.
pub(crate) const THIN: usize = 50;
/// Parameters for every number of the training set above which a model can copy all of it, given the steps.
pub(crate) const COPIES_ALL: f64 = 0.1;

/// What is known of the data and the model.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) data: String,
    pub(crate) distinct: usize,
    pub(crate) duplicates: usize,
    /// `[C, H, W]`.
    pub(crate) shape: [i64; 3],
    /// Images of every class.
    pub(crate) classes: Vec<usize>,
    /// Of the named model.
    pub(crate) parameters: u64,
}

impl Facts {
    fn train(&self) -> usize {
        self.distinct - self.held_out()
    }

    fn held_out(&self) -> usize {
        (self.distinct / 5).clamp(1, 5_000)
    }

    /// Parameters for every number that training sees.
    fn capacity(&self) -> f64 {
        capacity(self.parameters, self.train(), self.shape.iter().product::<i64>() as usize)
    }
}

/// Parameters for every number of so many images of `pixels` numbers.
pub(crate) fn capacity(parameters: u64, images: usize, pixels: usize) -> f64 {
    parameters as f64 / (images as f64 * pixels as f64)
}

/// A recipe for `data`, as TOML with its reasons in comments; of the model `model` if one is named.
pub fn advise(data: &str, model: Option<&str>) -> Result<String> {
    let set = ImageSet::open(&find(data, &project_root().join("datasets"))?)?;
    let summary = Summary::of(&set)?;
    let shape = set.shape.map(|n| n as i64);
    let distinct = summary.count - summary.duplicates;
    if distinct < 3 {
        return Err(anyhow!(Error::file(
            data,
            format!("{distinct} distinct images: nothing can be held out")
        )));
    }
    let named = model.map(named).transpose()?;
    let mut facts = Facts {
        data: if Path::new(data).exists() { absolute(data) } else { data.to_owned() },
        distinct,
        duplicates: summary.duplicates,
        shape,
        classes: summary.classes.iter().map(|(_, n)| *n).collect(),
        parameters: 0,
    };
    let network = match &named {
        Some(config) => {
            config.check_images(shape[0], shape[1], shape[2]).map_err(|e| e.within("--model"))?;
            toml::to_string(config)?
        }
        None => unet(&facts),
    };
    facts.parameters = parameters(&network)?;
    let text = recipe(&facts, &network, named.is_none());
    Study::parse(&text)?; // what is proposed can be run
    Ok(text)
}

fn absolute(path: &str) -> String {
    std::fs::canonicalize(path).map_or_else(|_| path.to_owned(), |p| p.to_string_lossy().into_owned())
}

fn named(name: &str) -> Result<ModelConfig> {
    let path = Path::new(name);
    if !path.is_file() {
        return Ok(preset(name)?.into_network()?);
    }
    let text = std::fs::read(path).map_err(Error::io(path))?;
    let fields =
        serde_json::from_slice(&text).map_err(|e| Error::file(path, format!("is no configuration: {e}")))?;
    Ok(ModelConfig::from_json(&fields).map_err(|e| Error::file(path, e.to_string()))?)
}

/// Counted without storage.
fn parameters(network: &str) -> Result<u64> {
    let config: ModelConfig = toml::from_str(network)?;
    let vars = nn::VarStore::new(Device::Cpu);
    without_storage(|| config.build(&vars.root()))?;
    Ok(Params::of(&vars).count() as u64)
}

/// A UNet for images of this size, the wider the more images there are.
fn unet(facts: &Facts) -> String {
    let [channels, height, width] = facts.shape;
    let side = height.min(width);
    let odd = |levels: u32| height % 2i64.pow(levels) != 0 || width % 2i64.pow(levels) != 0;
    let levels = (0..4u32).take_while(|l| !odd(*l) && side >> l >= 8).count().max(1);
    let base = if facts.train() < FEW { 32 } else { 64 };
    let widths: Vec<i64> = (0..levels).map(|l| base * [1, 2, 2, 4][l]).collect();
    let attention: Vec<bool> = (0..levels).map(|l| l > 0 && side >> l <= 16).collect();
    let dropout = if facts.train() < FEW { 0.1 } else { 0.0 };
    let told = if non_leaky(facts) { "time_cond_proj_dim = 9\n" } else { "" };
    format!(
        "kind = \"unet\"\nin_channels = {channels}\nout_channels = {channels}\nblock_out_channels = {widths:?}\n\
         layers_per_block = 2\nattention = {attention:?}\nmid_attention = true\nattention_head_dim = 8\n\
         norm_num_groups = 8\nnorm_eps = 1e-5\ndropout = {dropout:?}\n{told}"
    )
}

fn non_leaky(facts: &Facts) -> bool {
    facts.train() < FEW && facts.shape[1] == facts.shape[2]
}

fn recipe(facts: &Facts, network: &str, own: bool) -> String {
    let mut text = String::new();
    reasons(&mut text, facts, own).unwrap_or_default();
    let (train, held_out) = (facts.train(), facts.held_out());
    let batch = train.min(if train < 256 { 16 } else { 64 });
    let steps = 20_000;
    let every = 250;
    let augment = match own && non_leaky(facts) {
        true => "augment = [{ kind = \"non_leaky\", probability = 0.12 }]\n",
        false => "",
    };
    let shown = held_out.min(256);
    format!(
        "{text}\n\
         name = \"advised\"\n\
         question = \"Does a model of these {train} images generalise?\"\n\
         seeds = [0]\n\
         arms = {{ advised = {{}} }}\n\n\
         [data]\nname = {:?}\nsplit = {{ held_out = {held_out}, n_train = {train}, seed = 0 }}\n\n\
         [model]\n{network}\n\
         [schedule]\nkind = \"cosine\"\nsteps = 1000\n\n\
         [objective]\nprediction = \"v\"\nweighting = {{ kind = \"min_snr\", gamma = 5.0 }}\n\n\
         [train]\nsteps = {steps}\nbatch_size = {batch}\n\
         optimizer = {{ kind = \"adam_w\", betas = [0.9, 0.99], eps = 1e-8, weight_decay = 0.0 }}\n\
         learning_rate = {{ peak = 5e-4, warmup_steps = 500, decay = \"cosine\" }}\n\
         non_finite = \"stop\"\nlog_every = 50\n\n\
         [regularization]\n{augment}gradient = [{{ kind = \"clip\", max_norm = 1.0 }}]\n\
         weights = [{{ kind = \"ema\", decay = {{ kind = \"warm_up\", decay = 0.999 }} }}]\n\n\
         [validation]\nevery = {every}\nimages = {shown}\n\
         log_snr = [-5.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 5.0]\n\
         early_stopping = {{ kind = \"held_out_loss\", patience = 5 }}\n\n\
         [monitor]\nevery = {every}\nsamples = 64\nsampling_steps = 20\n\n\
         [sample]\nsampler = {{ kind = \"ddim\", eta = 0.0 }}\nsteps = 50\nsamples = 256\nbatch_size = 64\n\n\
         [checkpoint]\nevery = {every}\nkeep = 2\n",
        facts.data
    )
}

fn reasons(text: &mut String, facts: &Facts, own: bool) -> std::fmt::Result {
    let (train, capacity) = (facts.train(), facts.capacity());
    writeln!(text, "# Proposed for {} distinct images of {:?}.", facts.distinct, facts.shape)?;
    if facts.duplicates > 0 {
        writeln!(
            text,
            "# {} duplicates: what is there several times is copied first (Carlini et al. 2023). They are left out.",
            facts.duplicates
        )?;
    }
    writeln!(
        text,
        "# {} parameters, {capacity:.2} for every number that training sees: {}",
        facts.parameters,
        if capacity > COPIES_ALL {
            "enough to copy all of it, given the steps. What\n# keeps it from that is when it stops: early stopping \
             stays on (Yoon et al. 2023; Bonnaire et al. 2025)."
        } else {
            "copying takes long. Early stopping stays on as a guard."
        }
    )?;
    writeln!(
        text,
        "# The onset of copying grows with the number of images: `heldout stop-step THIS_FILE` predicts it from {} and {}\n\
         # of the {train}, before the long run.",
        train / 8,
        train / 4
    )?;
    if own && non_leaky(facts) {
        writeln!(
            text,
            "# Few images: they are moved, and the network is told how, so that samples do not show it; dropout 0.1 (Karras\n\
             # et al. 2022). Plain flips and rotations would change what digits, letters and faces are."
        )?;
    }
    labels(text, facts)?;
    writeln!(text, "# Averaged weights, clipped gradients, min-SNR: cheap, and no known harm.")
}

fn labels(text: &mut String, facts: &Facts) -> std::fmt::Result {
    let Some(smallest) = facts.classes.iter().min() else {
        return writeln!(
            text,
            "# No labels: nothing to condition on, and no label to copy by (Gu et al. 2023)."
        );
    };
    let classes = facts.classes.len();
    if *smallest < THIN || classes * 2 > facts.distinct {
        return writeln!(
            text,
            "# {classes} classes, the smallest of {smallest} images: labels as thin as these make a model copy (Gu et al.\n\
             # 2023). They are not given to it."
        );
    }
    writeln!(
        text,
        "# {classes} classes, the smallest of {smallest} images: the model is trained without them, since labels add to copying\n\
         # (Gu et al. 2023). To give them: model.num_class_embeds = {}, and label_dropout with null = {classes}.",
        classes + 1
    )
}
