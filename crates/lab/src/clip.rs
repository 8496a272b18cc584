//! A CLIP with both towers: guidance towards texts, and alignment with them.

use crate::space::Space;
use crate::texts::Texts;
use heldout_core::{Cond, Denoiser, Error, FeatureExtractor, NoiseSchedule, Result, mean_flat};
use heldout_features::{ClipVision, rgb};
use heldout_regularization::{FrozenFeatures, TextAlignmentConfig};
use heldout_samplers::{EmbeddingDistance, EmbeddingScore, RandomAffine, ScoreGuidance, XStartScore};
use heldout_vae::LatentModel;
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// What guidance by a CLIP is given.
#[derive(Debug, Clone, Copy)]
pub struct ClipRequest<'a> {
    /// The folder of a `CLIPModel` of transformers, with its tokens in it or in a folder `tokenizer` beside it.
    pub folder: &'a Path,
    /// What the gradient is multiplied by: see [`ScoreGuidance`].
    pub scale: f64,
    /// Random views of every image that its score is the mean of; 0 for the image itself.
    pub views: i64,
}

impl ClipRequest<'_> {
    /// Which option cannot be honoured.
    pub(crate) fn check(&self) -> Result<()> {
        if !self.scale.is_finite() {
            return Err(Error::config("--clip-scale", format!("{}: a finite number is needed", self.scale)));
        }
        if self.views < 0 {
            return Err(Error::config("--clip-views", format!("{}: at least 0 is needed", self.views)));
        }
        Ok(())
    }
}

/// Both towers.
#[derive(Debug)]
pub(crate) struct Clip {
    images: Rc<ClipVision>,
    texts: Texts,
}

impl Clip {
    /// Opens a folder, whose towers must end in one space.
    pub(crate) fn open(folder: &Path, device: Device) -> Result<Self> {
        let clip = Self {
            texts: Texts::of_folder(folder, device)?,
            images: Rc::new(ClipVision::open(folder, device)?),
        };
        let grey = Tensor::full([1, 3, 8, 8], 0.5, (Kind::Float, device));
        let image = tch::no_grad(|| clip.images.extract(&grey))?.features.size()[1];
        let text = clip.texts.embedding("")?.size()[1];
        if image == text {
            return Ok(clip);
        }
        let reason =
            format!("its images have {image} numbers and its texts {text}: they are not of one CLIP");
        Err(Error::file(folder, reason))
    }

    /// Texts in the space of both, `[N, D]`; one that is too long is an error about `field`.
    pub(crate) fn embeddings(&self, field: &str, texts: &[String]) -> Result<Tensor> {
        let row = |text: &String| {
            self.texts.check(field, text)?;
            self.texts.embedding(text)
        };
        Ok(Tensor::cat(&texts.iter().map(row).collect::<Result<Vec<_>>>()?, 0))
    }

    /// `inner`, drawn towards images like the vectors [`Cond::text_embeds`] that samples are told; `autoencoder` makes images
    /// of what is sampled.
    pub(crate) fn guided<D: Denoiser>(
        &self,
        request: &ClipRequest<'_>,
        inner: D,
        autoencoder: Option<Rc<dyn LatentModel>>,
        seed: u64,
    ) -> ScoreGuidance<Untold<D>, TextScore> {
        let views = RandomAffine {
            copies: request.views,
            degrees: 10.0,
            translate: 0.1,
            scale: [0.9, 1.1],
            flip: true,
            seed,
        };
        let views = (request.views > 0).then_some(views);
        let score = TextScore { images: self.images.clone(), views, autoencoder };
        ScoreGuidance { inner: Untold(inner), score, scale: request.scale }
    }
}

/// A model that is not told what is for a score alone.
#[derive(Debug)]
pub(crate) struct Untold<D>(D);

impl<D: Denoiser> Denoiser for Untold<D> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        self.0.denoise_with_variance(x_t, t, &Cond { text_embeds: None, ..cond.shallow_clone() })
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.0.schedule()
    }
}

/// Closeness to a text of the image that an estimate is, or decodes to; 0 for samples that are told of none.
#[derive(Debug)]
pub(crate) struct TextScore {
    images: Rc<ClipVision>,
    views: Option<RandomAffine>,
    autoencoder: Option<Rc<dyn LatentModel>>,
}

impl XStartScore for TextScore {
    fn score(&self, x_start_hat: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        let Some(target) = &cond.text_embeds else { return mean_flat(x_start_hat) * 0.0 };
        let score = EmbeddingScore {
            encoder: self.images.clone(),
            target: target.shallow_clone(),
            distance: EmbeddingDistance::Spherical,
            augment: self.views,
        };
        match &self.autoencoder {
            Some(autoencoder) => score.score(&autoencoder.decode(x_start_hat), t, cond),
            None => score.score(x_start_hat, t, cond),
        }
    }
}

/// The image tower that a penalty asks for: estimates in the space of the model to embeddings.
pub(crate) fn clip_images(
    config: &TextAlignmentConfig,
    space: &Space,
    device: Device,
) -> Result<FrozenFeatures> {
    let Clip { images, texts } = Clip::open(Path::new(&config.clip), device).map_err(|e| match e {
        Error::Config { .. } => e.within("clip"),
        other => Error::config("clip", other.to_string()),
    })?;
    let width = texts.embedding("")?.size()[1];
    let [channels, height, side] = space.images;
    let grey = Tensor::zeros([1, channels, height, side], (Kind::Float, device));
    rgb(&grey).and_then(|x| tch::no_grad(|| images.extract(&x))).map_err(|e| e.within("clip"))?;
    let space = space.clone();
    Ok(FrozenFeatures::new(width, move |x| {
        let seen = rgb(&(space.decoded(x) * 0.5 + 0.5)).and_then(|x| images.extract(&x));
        seen.unwrap_or_else(|e| panic!("a CLIP that took these images once: {e}")).features
    }))
}
