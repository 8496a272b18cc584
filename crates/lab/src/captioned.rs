//! Texts in a recipe: what a model is told in training, in validation and in sampling.

use crate::conditions::Side;
use crate::run::read_json;
use crate::texts::Texts;
use anyhow::{Result, anyhow};
use heldout_core::{Batch, BatchSource, Clock, Cond, Denoiser, Error, stream};
use heldout_data::{Captions, ImageSet, Split};
use heldout_samplers::{ClassifierFree, GuidedChannels};
use heldout_train::write_atomically;
use heldout_weights::ModelConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Encoded texts are kept up to so many bytes; further ones are encoded whenever they come. 4096 texts of Stable Diffusion's
/// encoder, which has 77 tokens of 768 numbers.
const REMEMBERED_BYTES: usize = 1 << 30;
/// The prompts of an arm's samples, in its folder.
const PROMPTS: &str = "prompts.json";
/// What a network that takes texts is told.
pub(crate) const CONTEXT: &str = "encoder_hidden_states";

/// Texts as conditions: the images must have captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// The folder of a CLIP's text encoder, as transformers writes it, with its tokens in it or in a folder `tokenizer`
    /// beside it.
    pub encoder: String,
    /// The share of captions that become the empty text, which stands for none; Ho and Salimans 2022, Algorithm 1.
    #[serde(default = "tenth")]
    pub dropout: f64,
    /// Strength of classifier-free guidance in samples, away from the empty text; 1 for none.
    #[serde(default = "one")]
    pub guidance: f64,
    /// What samples show, one after another and from the start again; the captions of the held-out images if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompts: Vec<String>,
}

fn tenth() -> f64 {
    0.1
}

fn one() -> f64 {
    1.0
}

impl TextConfig {
    /// Which field cannot be honoured, as far as the recipe alone can tell.
    pub(crate) fn check(&self, model: &ModelConfig) -> heldout_core::Result<()> {
        let Self { encoder: _, dropout, guidance, prompts: _ } = self;
        if !(0.0..1.0).contains(dropout) {
            let reason = format!("{dropout}: a share of at least 0 and below 1 is needed");
            return Err(Error::config("dropout", reason));
        }
        if !guidance.is_finite() {
            return Err(Error::config("guidance", format!("{guidance}: a finite number is needed")));
        }
        width(model).map(|_| ())
    }
}

/// Numbers of a token that a model takes.
fn width(model: &ModelConfig) -> heldout_core::Result<i64> {
    let conditions = model.example(1, None, 1)?.conditions;
    let context = conditions.iter().find(|(name, _)| *name == CONTEXT);
    let found = context.and_then(|(_, shape)| shape.last().copied());
    found.ok_or_else(|| {
        let reason = "this model takes no texts: use kind = \"UNet2DConditionModel\", or leave the table out";
        Error::config("encoder", reason)
    })
}

/// An encoder that encodes a text once, alone: its tokens are a function of the text, whatever it comes with.
#[derive(Debug)]
pub(crate) struct TextEncoder {
    texts: Texts,
    seen: RefCell<HashMap<String, Tensor>>,
    bytes: Cell<usize>,
    encode: fn(&Texts, &str) -> heldout_core::Result<Tensor>,
}

impl TextEncoder {
    fn new(texts: Texts, encode: fn(&Texts, &str) -> heldout_core::Result<Tensor>) -> Self {
        Self { texts, seen: RefCell::default(), bytes: Cell::new(0), encode }
    }

    /// A row for each text.
    fn rows<'a>(&self, texts: impl IntoIterator<Item = &'a str>) -> heldout_core::Result<Tensor> {
        let rows = texts.into_iter().map(|text| self.row(text)).collect::<heldout_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&rows, 0))
    }

    fn row(&self, text: &str) -> heldout_core::Result<Tensor> {
        if let Some(row) = self.seen.borrow().get(text) {
            return Ok(row.shallow_clone());
        }
        let row = (self.encode)(&self.texts, text)?;
        let bytes = self.bytes.get() + row.numel() * row.kind().elt_size_in_bytes();
        if bytes <= REMEMBERED_BYTES {
            self.bytes.set(bytes);
            self.seen.borrow_mut().insert(text.to_owned(), row.shallow_clone());
        }
        Ok(row)
    }
}

/// The texts of a model's samples.
#[derive(Debug, Clone)]
pub(crate) struct Prompts {
    encoder: Rc<TextEncoder>,
    prompts: Rc<Vec<String>>,
    guidance: f64,
}

impl Prompts {
    /// Of an arm that was trained, or others in their place.
    pub(crate) fn read(config: &TextConfig, arm: &Path, others: &[String], device: Device) -> Result<Self> {
        let encoder = open(config, device)?;
        let prompts: Vec<String> =
            if others.is_empty() { read_json(&arm.join(PROMPTS))? } else { others.to_vec() };
        for prompt in &prompts {
            encoder.texts.check("--prompt", prompt)?;
        }
        Ok(Self { encoder, prompts: Rc::new(prompts), guidance: config.guidance })
    }

    /// Keeps them in the folder of an arm, for those who sample from it without its data.
    pub(crate) fn write(&self, arm: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self.prompts.as_ref())?;
        Ok(write_atomically(&arm.join(PROMPTS), text.as_bytes())?)
    }

    /// One after another.
    pub(crate) fn texts(&self) -> &[String] {
        &self.prompts
    }

    /// The tokens of samples `range`, `[n, L, D]`.
    pub(crate) fn context(&self, range: std::ops::Range<u64>) -> heldout_core::Result<Tensor> {
        let n = self.prompts.len() as u64;
        self.encoder.rows(range.map(|i| self.prompts[(i % n) as usize].as_str()))
    }

    /// The model with the guidance of the recipe, or with another one.
    pub(crate) fn guided<D: Denoiser>(
        &self,
        inner: D,
        guidance: Option<f64>,
    ) -> heldout_core::Result<ClassifierFree<D>> {
        let null = Cond { context: Some(self.encoder.row("")?), ..Cond::default() };
        let scale = guidance.unwrap_or(self.guidance);
        Ok(ClassifierFree { inner, null, scale, rescale: None, channels: GuidedChannels::All })
    }
}

/// The encoder of a recipe.
fn open(config: &TextConfig, device: Device) -> heldout_core::Result<Rc<TextEncoder>> {
    let texts = Texts::of_folder(Path::new(&config.encoder), device)?;
    Ok(Rc::new(TextEncoder::new(texts, Texts::context)))
}

/// The captions of a run, and what its model is told of them.
#[derive(Debug, Clone)]
pub(crate) struct TextConditions {
    encoder: Rc<TextEncoder>,
    captions: Rc<Captions>,
    /// Places of the images in the captions.
    split: Rc<Split>,
    dropout: f64,
    seed: u64,
    pub(crate) prompts: Prompts,
}

impl TextConditions {
    /// Opens the encoder, and checks that it takes every caption and that `model` takes what it says.
    pub(crate) fn open(
        config: &TextConfig,
        model: &ModelConfig,
        (set, split): (&ImageSet, &Split),
        seed: u64,
        device: Device,
    ) -> Result<Self> {
        let captions = set.captions.clone().ok_or_else(|| {
            let reason =
                format!("the images of {} have no captions: put metadata.jsonl beside them", set.name);
            anyhow!(Error::config("text", reason))
        })?;
        let encoder = open(config, device)?;
        let (texts, wanted) = (&encoder.texts, width(model).map_err(|e| e.within("text"))?);
        let found = encoder.row("")?.size()[2];
        if found != wanted {
            let folder = texts.folder().display();
            let reason = format!(
                "{folder}: has tokens of {found} numbers, where the model takes {wanted}: set model.cross_attention_dim"
            );
            return Err(anyhow!(Error::config("text.encoder", reason)));
        }
        for i in split.train.iter().chain(&split.held_out) {
            texts.check("text", &captions.texts[*i]).map_err(|e| match e {
                Error::Config { reason, .. } => captions.error(*i, &reason),
                other => other,
            })?;
        }
        for (i, prompt) in config.prompts.iter().enumerate() {
            texts.check(&format!("text.prompts[{i}]"), prompt)?;
        }
        let prompts = match config.prompts.is_empty() {
            true => split.held_out.iter().map(|i| captions.texts[*i].clone()).collect(),
            false => config.prompts.clone(),
        };
        let prompts =
            Prompts { encoder: encoder.clone(), prompts: Rc::new(prompts), guidance: config.guidance };
        let (captions, split) = (Rc::new(captions), Rc::new(split.clone()));
        Ok(Self { encoder, captions, split, dropout: config.dropout, seed, prompts })
    }

    /// The tokens of the first `n` images of a set, from the start again where it is smaller, `[n, L, D]`.
    pub(crate) fn of(&self, side: Side, n: i64) -> heldout_core::Result<Tensor> {
        let images = match side {
            Side::Train => &self.split.train,
            Side::HeldOut => &self.split.held_out,
        };
        let texts = images.iter().cycle().take(n as usize).map(|i| self.captions.texts[*i].as_str());
        self.encoder.rows(texts)
    }

    /// The caption of a training example; cached latents have several examples of an image, all images once and then again.
    fn caption(&self, place: usize) -> &str {
        &self.captions.texts[self.split.train[place % self.split.train.len()]]
    }
}

/// Training batches with the texts of their images, of which some are dropped.
///
/// Law: the batches of the source, but for `cond.context` and, for an alignment with texts, `cond.text_embeds`; a function of
/// the seed and the clock.
#[derive(Debug)]
pub(crate) struct Captioned {
    inner: Box<dyn BatchSource>,
    texts: TextConditions,
    /// The vectors of texts that an alignment compares images with, of an example's own caption whether it is told or not.
    vectors: Option<TextEncoder>,
}

impl Captioned {
    /// `clip` is the folder of the CLIP of an alignment.
    pub(crate) fn new(
        inner: Box<dyn BatchSource>,
        texts: TextConditions,
        clip: Option<&str>,
        device: Device,
    ) -> heldout_core::Result<Self> {
        let open = |clip| {
            let vectors = Texts::of_folder(Path::new(clip), device)?;
            // Another encoder than the recipe's may take fewer tokens.
            for place in 0..texts.split.train.len() {
                vectors.check("text", texts.caption(place)).map_err(|e| match e {
                    Error::Config { reason, .. } => texts.captions.error(texts.split.train[place], &reason),
                    other => other,
                })?;
            }
            Ok::<_, Error>(TextEncoder::new(vectors, Texts::embedding))
        };
        let vectors = clip.map(open).transpose()?;
        Ok(Self { inner, texts, vectors })
    }
}

impl BatchSource for Captioned {
    fn batch(&mut self, clock: Clock) -> heldout_core::Result<Batch> {
        let batch = self.inner.batch(clock)?;
        let missing = || Error::config("text", "the batches do not say which images they are of");
        let places = Vec::<i64>::try_from(batch.index.as_ref().ok_or_else(missing)?)?;
        let captions: Vec<&str> = places.iter().map(|place| self.texts.caption(*place as usize)).collect();
        let vectors = self.vectors.as_ref().map(|v| v.rows(captions.iter().copied())).transpose()?;
        let context = if self.texts.dropout > 0.0 {
            tch::manual_seed(stream(self.texts.seed, "text dropout", clock.step, 0) as i64);
            let draws =
                Vec::<f64>::try_from(Tensor::rand([places.len() as i64], (Kind::Double, Device::Cpu)))?;
            let told = captions.iter().zip(draws);
            self.texts.encoder.rows(told.map(|(text, u)| if u < self.texts.dropout { "" } else { *text }))?
        } else {
            self.texts.encoder.rows(captions.iter().copied())?
        };
        let cond = Cond { context: Some(context), text_embeds: vectors, ..batch.cond };
        Ok(Batch { cond, ..batch })
    }
}
