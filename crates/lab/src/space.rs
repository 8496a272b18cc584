//! What a model works on: pixels, or the latents of an autoencoder.

use crate::autoencoder::{AutoencoderRecipe, AutoencoderRequest, train_autoencoder};
use crate::dirs::find_autoencoder;
use crate::frames::ExampleShape;
use crate::hash::{add_tensors, hex};
use crate::recipe::Recipe;
use anyhow::{Context, Result, anyhow};
use heldout_core::{Augment, Autoencoder, Batch, BatchSource, Clock, Cond, Error, stream};
use heldout_data::{Batches, Examples, ImageSet, LatentCache, LatentSource, cache_folder};
use heldout_regularization::{AugmentTechnique, Augmented};
use heldout_vae::Encoded;
use heldout_vae::LatentModel;
use heldout_weights::{AutoencoderModel, OpenOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use tch::{Device, Tensor};

/// The purpose of draws that change images before they are encoded.
const AUGMENTATION: &str = "augmentation before encoding";

/// Diffusion of latents instead of pixels: a recipe's table `latent` is all that tells the two apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LatentConfig {
    /// The folder of an autoencoder, as `heldout train-autoencoder` or diffusers writes it; a name on the hub; or the name of a
    /// recipe of an autoencoder that ships, which is trained first, once.
    pub autoencoder: String,
    /// Steps of that training, if not the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoencoder_steps: Option<u64>,
    /// Whether latents are computed once and read from disk; otherwise every batch is encoded anew.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub cached: bool,
    /// What is done to images before they are encoded; what `regularization.augment` lists is done to latents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub augment: Vec<AugmentTechnique>,
    /// Versions of every image that are kept, each augmented anew.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub copies: usize,
    /// Where cached latents and autoencoders that were trained by name are; the user's cache if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
}

fn yes() -> bool {
    true
}

fn is_true(on: &bool) -> bool {
    *on
}

fn once() -> usize {
    1
}

fn is_once(copies: &usize) -> bool {
    *copies == 1
}

impl LatentConfig {
    /// Which field cannot be honoured, as far as the recipe alone can tell.
    pub(crate) fn check(&self) -> heldout_core::Result<()> {
        match self {
            Self { copies: 0, .. } => Err(Error::config("copies", "0: at least 1 is needed")),
            Self { copies: 2.., augment, .. } if augment.is_empty() => {
                let reason =
                    format!("{}: the same latents so often; list augment, or leave it out", self.copies);
                Err(Error::config("copies", reason))
            }
            Self { copies: 2.., cached: false, .. } => {
                Err(Error::config("copies", "is for cached latents: without, every batch is augmented anew"))
            }
            _ => self.check_kept(),
        }
    }

    /// Cached are latents alone.
    fn check_kept(&self) -> heldout_core::Result<()> {
        use AugmentTechnique::{LabelDropout, Mixup, NonLeaky};
        let tells = |a: &AugmentTechnique| matches!(a, LabelDropout(_) | Mixup(_) | NonLeaky(_));
        match self.augment.iter().position(tells).filter(|_| self.cached) {
            Some(i) => {
                let reason = "changes labels or conditions, which are not cached: list it under regularization.augment, or set \
                              cached = false";
                Err(Error::config(format!("augment[{i}]"), reason))
            }
            None => Ok(()),
        }
    }

    /// What is done to images of this shape.
    fn augments(&self, images: [i64; 3]) -> heldout_core::Result<Vec<Box<dyn Augment>>> {
        let each = self.augment.iter().enumerate();
        each.map(|(i, technique)| {
            let built = technique.check(images).and_then(|()| technique.build(images));
            built.map_err(|e| e.within(&format!("latent.augment[{i}]")))
        })
        .collect()
    }

    /// The recipe of the autoencoder, where it is one's name, and the folder of its run.
    fn recipe(&self) -> Result<Option<(AutoencoderRecipe, PathBuf)>> {
        if Path::new(&self.autoencoder).exists() || self.autoencoder.contains('/') {
            return Ok(None);
        }
        let Ok(path) = find_autoencoder(&self.autoencoder) else { return Ok(None) };
        let steps = self.autoencoder_steps.map(|steps| format!("train.steps={steps}"));
        let recipe = AutoencoderRecipe::read(&path, steps.as_slice())?;
        let name = format!("{}-{}", recipe.name, &recipe.fingerprint()?[..16]);
        let folder = self.kept()?.join("autoencoders").join(name);
        Ok(Some((recipe, folder)))
    }

    /// Where things are kept that can be made again.
    fn kept(&self) -> Result<PathBuf> {
        self.cache.clone().or_else(cache_folder).ok_or_else(|| {
            anyhow!(Error::config("latent.cache", "no home folder is known: name a folder for latents"))
        })
    }

    /// The folder or name of the autoencoder.
    fn source(&self) -> Result<String> {
        Ok(match self.recipe()? {
            Some((recipe, folder)) => {
                let trained = folder.join("autoencoder");
                if !trained.is_dir() {
                    let reason = format!(
                        "{}: is not trained yet: `heldout experiment` does it, or `heldout train-autoencoder {} --out {}`",
                        self.autoencoder,
                        recipe.name,
                        folder.display()
                    );
                    return Err(anyhow!(Error::config("latent.autoencoder", reason)));
                }
                trained.to_string_lossy().into_owned()
            }
            None => self.autoencoder.clone(),
        })
    }

    /// Trains the autoencoder where it is named by a recipe and not there yet; false if a signal came.
    pub(crate) fn prepare(&self, device: Device, interrupt: &AtomicBool) -> Result<bool> {
        let Some((recipe, folder)) = self.recipe()? else { return Ok(true) };
        if folder.join("autoencoder").is_dir() {
            return Ok(true);
        }
        eprintln!("training the autoencoder {} first, in {}", recipe.name, folder.display());
        let request = AutoencoderRequest { recipe: &recipe, folder: &folder, device, interrupt };
        Ok(train_autoencoder(&request)?.is_some())
    }
}

/// What a model works on.
#[derive(Debug, Clone)]
pub(crate) struct Space {
    /// What is worked on: images or clips.
    pub(crate) examples: ExampleShape,
    /// `[C, H, W]` of images; of clips with their frames as channels.
    pub(crate) images: [i64; 3],
    /// `[C, H, W]` of what the model is given: images or latents.
    pub(crate) shape: [i64; 3],
    /// The largest absolute value of clean data, where there is one.
    pub(crate) limit: Option<f64>,
    autoencoder: Option<Rc<AutoencoderModel>>,
}

impl Space {
    /// Of a recipe, for images or clips of this shape.
    pub(crate) fn of(recipe: &Recipe, examples: ExampleShape, device: Device) -> Result<Self> {
        examples.check(recipe)?;
        let images = examples.stacked();
        let Some(latent) = &recipe.latent else {
            return Ok(Self { examples, images, shape: images, limit: Some(1.0), autoencoder: None });
        };
        let within = |e: Error| anyhow!(e.within("latent"));
        let model = AutoencoderModel::open(&latent.source()?, device, OpenOptions::default())
            .map_err(|e| anyhow!(e))
            .context("latent.autoencoder")?;
        let shape = model.config.latent_shape(images).map_err(within)?;
        Ok(Self { examples, images, shape, limit: None, autoencoder: Some(Rc::new(model)) })
    }

    /// Images `[N, C, H, W]` in `[-1, 1]` of what a model made, decoded `batch` at a time.
    pub(crate) fn to_images(&self, x: &Tensor, batch: usize) -> Tensor {
        let Some(model) = &self.autoencoder else { return x.shallow_clone() };
        in_batches(x, batch, |rows| model.network.decode(rows).clamp(-1.0, 1.0))
    }

    /// The numbers of the autoencoder, in the order of their names.
    pub(crate) fn weights(&self) -> Option<Vec<(String, Tensor)>> {
        let mut all: Vec<(String, Tensor)> =
            self.autoencoder.as_ref()?.vars.variables().into_iter().collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Some(all)
    }

    /// What makes images of what a model works on, where that are no images.
    pub(crate) fn autoencoder(&self) -> Option<Rc<dyn LatentModel>> {
        self.autoencoder.as_ref().map(|model| model.network.clone())
    }

    /// Images of all of `x` at once, with their graph.
    pub(crate) fn decoded(&self, x: &Tensor) -> Tensor {
        self.autoencoder.as_ref().map_or_else(|| x.shallow_clone(), |model| model.network.decode(x))
    }

    /// What a model is given of images `[N, C, H, W]`, encoded `batch` at a time.
    pub(crate) fn of_images(&self, x: &Tensor, batch: usize) -> Tensor {
        let Some(model) = &self.autoencoder else { return x.shallow_clone() };
        in_batches(x, batch, |rows| model.network.encode(rows))
    }

    /// Batches as a model is given them; `batches` are of images, or of cached latents.
    pub(crate) fn source(
        &self,
        recipe: &Recipe,
        batches: Batches,
        seed: u64,
    ) -> Result<Box<dyn BatchSource>> {
        let (Some(config), Some(model)) = (&recipe.latent, &self.autoencoder) else {
            return Ok(Box::new(batches));
        };
        if config.cached {
            return Ok(Box::new(batches));
        }
        let augments = config.augments(self.images)?;
        let seed = stream(seed, AUGMENTATION, 0, 0);
        let augmented = Augmented { inner: batches, augments, seed, rank: 0 };
        let network: Rc<dyn Autoencoder> = model.network.clone();
        Ok(Box::new(Encoded::new(augmented, network, self.images, self.shape)?))
    }

    /// The images of a set as they are in this space, `[N, C, H, W]`: from disk where the recipe keeps latents there.
    pub(crate) fn plain(
        &self,
        recipe: &Recipe,
        of: &Source<'_>,
        images: &Tensor,
        device: Device,
    ) -> Result<Tensor> {
        match self.cached(recipe, of, None, device)? {
            Some(latents) => Ok(latents.on(&Vec::from_iter(0..latents.len()), device)?),
            None => Ok(self.of_images(images, recipe.sample.batch_size)),
        }
    }

    /// What training batches are made of, on disk: latents of the training images, of several versions where the recipe
    /// augments them. `None` in the space of pixels, and where the recipe wants none on disk.
    pub(crate) fn examples(
        &self,
        recipe: &Recipe,
        of: &Source<'_>,
        seed: u64,
        device: Device,
    ) -> Result<Option<LatentCache>> {
        let augmented = recipe.latent.as_ref().is_some_and(|latent| !latent.augment.is_empty());
        let seed = augmented.then(|| stream(seed, AUGMENTATION, 0, 0));
        self.cached(recipe, of, seed, device)
    }

    /// Latents on disk, made if they are not there: of the images as they are, or augmented by the draws of a seed. Row `i` is
    /// of the image `i % n`.
    fn cached(
        &self,
        recipe: &Recipe,
        of: &Source<'_>,
        drawn: Option<u64>,
        device: Device,
    ) -> Result<Option<LatentCache>> {
        let (Some(config), Some(model)) = (&recipe.latent, &self.autoencoder) else { return Ok(None) };
        if !config.cached {
            return Ok(None);
        }
        config.augments(self.images)?; // before the cache is looked for
        let (batch, copies) = (recipe.sample.batch_size, if drawn.is_some() { config.copies } else { 1 });
        // What is drawn depends on the seed and on how images are grouped.
        let how = drawn.map(|seed| (&config.augment, copies, seed, batch));
        let source = LatentSource {
            fingerprint: fingerprint(model, of, &serde_json::to_string(&how)?)?,
            autoencoder: config.autoencoder.clone(),
            data: format!("{} images of {}", of.indices.len(), of.set.title),
        };
        let versions = if drawn.is_some() { "-augmented" } else { "" };
        let folder = match &config.cache {
            Some(folder) => folder.join(format!("{}{versions}-{}", of.name, of.indices.len())),
            None => config.kept()?.join("latents").join(&source.fingerprint[..32]),
        };
        let (n, count) = (of.indices.len(), of.indices.len() * copies);
        let mut cache = match LatentCache::open(&folder, &source)? {
            Some(cache) => cache,
            None => {
                let encode = |range: Range<usize>| {
                    let clock = Clock { step: range.start as u64, total: count as u64 };
                    let rows: Vec<usize> = range.map(|row| of.indices[row % n]).collect();
                    let images = of.set.on(&rows, device)?;
                    let Some(seed) = drawn else { return Ok(model.network.encode(&images)) };
                    let inner = Fixed(Batch::new(images, Cond::default()));
                    let augments = config.augments(self.images)?;
                    let images = Augmented { inner, augments, seed, rank: 0 }.batch(clock)?;
                    Ok(model.network.encode(&images.x_start))
                };
                LatentCache::write(&folder, &source, count, encode, batch)?
            }
        };
        cache.labels = of.set.labels().map(|all| (0..count).map(|row| all[of.indices[row % n]]).collect());
        Ok(Some(cache))
    }
}

/// Some images of a set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) set: &'a ImageSet,
    pub(crate) indices: &'a [usize],
    /// Of the folder of their latents, where the recipe names one for all.
    pub(crate) name: &'a str,
}

/// The same batch whatever the step.
#[derive(Debug)]
struct Fixed(Batch);

impl BatchSource for Fixed {
    fn batch(&mut self, _: Clock) -> heldout_core::Result<Batch> {
        Ok(self.0.shallow_clone())
    }
}

fn in_batches(x: &Tensor, batch: usize, f: impl Fn(&Tensor) -> Tensor) -> Tensor {
    let n = x.size()[0];
    let rows = |first: i64| f(&x.narrow(0, first, (batch as i64).min(n - first)));
    tch::no_grad(|| Tensor::cat(&(0..n).step_by(batch).map(rows).collect::<Vec<_>>(), 0))
}

/// SHA-256 of the autoencoder's configuration and weights, of the images' pixels, and of how they were augmented.
fn fingerprint(model: &AutoencoderModel, of: &Source<'_>, drawn: &str) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(drawn);
    hash.update(serde_json::to_vec(&model.config)?);
    add_tensors(&mut hash, &model.tensors())?;
    for rows in of.indices.chunks(1024) {
        let bytes = of.set.bytes(rows)?;
        hash.update(format!("{:?}", bytes.size()));
        hash.update(Vec::<u8>::try_from(bytes.flatten(0, -1))?);
    }
    Ok(hex(hash))
}
