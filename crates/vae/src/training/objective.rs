//! The loss of an autoencoder.

use super::{
    FrozenMaps, LatentAlignment, LatentAlignmentConfig, PatchAdversary, PatchAdversaryConfig, Perceptual,
};
use crate::{LatentModel, Reconstruction, Regularizer};
use heldout_core::{
    Batch, Clock, Error, Evaluation, Objective, Optimizer, Params, Persist, Result, State, mean_flat,
};
use heldout_nn::{ZERO, variable};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::rc::Rc;
use tch::{Kind, Tensor, nn};

/// How a reconstruction differs from its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PixelLoss {
    /// Absolute difference.
    #[default]
    L1,
    /// Squared difference.
    L2,
}

impl PixelLoss {
    /// Mean over an image, `[B]`.
    fn of(self, x: &Tensor, x_hat: &Tensor) -> Tensor {
        let difference = x_hat - x;
        mean_flat(&match self {
            Self::L1 => difference.abs(),
            Self::L2 => difference.square(),
        })
    }
}

/// What an autoencoder is trained for: Rombach et al. 2022, Eq. 25, as their code has it.
///
/// `(pixels + perceptual_weight * perceptual) / exp(v) + v`, with the learned log variance `v` of a pixel (one number, 0 at the
/// start), plus the divergence of the posterior or the codebook's loss, plus a critic and the alignment of latents. All of it
/// is for one number of the image: their sum over the image, divided by `C H W`, so that it does not move with the size.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AutoencoderObjectiveConfig {
    /// How pixels are compared.
    pub pixels: PixelLoss,
    /// Weight of the distance that a network sees; 0 without one.
    pub perceptual_weight: f64,
    /// Whether the log variance is learned; else it is 0, as in Esser et al. 2021.
    pub learn_log_variance: bool,
    /// Weight of the divergence of a whole latent, in nats, beside the sum over the image.
    pub kl_weight: f64,
    /// Weight of the codebook's loss beside the mean over the image.
    pub commitment_weight: f64,
    /// A critic of patches.
    pub adversary: Option<PatchAdversaryConfig>,
    /// Latents near the features of a frozen network.
    pub alignment: Option<LatentAlignmentConfig>,
}

impl Default for AutoencoderObjectiveConfig {
    fn default() -> Self {
        Self {
            pixels: PixelLoss::L1,
            perceptual_weight: 0.0,
            learn_log_variance: true,
            kl_weight: 1e-6,
            commitment_weight: 1.0,
            adversary: None,
            alignment: None,
        }
    }
}

/// What an [`AutoencoderObjective`] is made of besides its settings.
pub struct ObjectiveParts<'a> {
    /// The autoencoder; observers share it.
    pub model: Rc<dyn LatentModel>,
    /// `[C, H, W]` of the images.
    pub images: [i64; 3],
    /// Where the weights of what is trained with the model go: the log variance and the projection of the alignment.
    pub vars: &'a nn::Path<'a>,
    /// The run's seed.
    pub seed: u64,
    /// Makes the critic's optimiser.
    pub optimizer: &'a dyn Fn(&Params) -> Result<Box<dyn Optimizer>>,
    /// The network of the perceptual distance.
    pub perceptual: Option<Perceptual>,
    /// The network of the alignment.
    pub frozen: Option<FrozenMaps>,
}

impl fmt::Debug for ObjectiveParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { images, seed, perceptual, frozen, .. } = self;
        let mut f = f.debug_struct("ObjectiveParts");
        f.field("images", images).field("seed", seed).field("perceptual", perceptual).field("frozen", frozen);
        f.finish_non_exhaustive()
    }
}

impl AutoencoderObjectiveConfig {
    /// Which field cannot be honoured for images `[C, H, W]`.
    pub fn check(&self, images: [i64; 3]) -> Result<()> {
        for (field, weight) in [
            ("perceptual_weight", self.perceptual_weight),
            ("kl_weight", self.kl_weight),
            ("commitment_weight", self.commitment_weight),
        ] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::config(field, format!("{weight}: a finite number from 0 up is needed")));
            }
        }
        self.adversary.as_ref().map_or(Ok(()), |c| c.check(images)).map_err(|e| e.within("adversary"))?;
        self.alignment.map_or(Ok(()), |c| c.check()).map_err(|e| e.within("alignment"))
    }

    /// The objective; what is trained with the model is made under `parts.vars`.
    ///
    /// # Errors
    /// A field that cannot be honoured, or a network that is asked for and not given.
    pub fn build(&self, parts: ObjectiveParts<'_>) -> Result<AutoencoderObjective> {
        let ObjectiveParts { model, images, vars, seed, optimizer, perceptual, frozen } = parts;
        self.check(images)?;
        let channels = model.latent_shape(images)?[0];
        let perceptual = match (self.perceptual_weight, perceptual) {
            (0.0, _) => None,
            (_, Some(network)) => Some(network),
            (weight, None) => {
                let reason = format!("{weight}, but no network is given: name one, or set it to 0");
                return Err(Error::config("perceptual_weight", reason));
            }
        };
        let alignment = match (&self.alignment, frozen) {
            (None, _) => None,
            (Some(config), Some(frozen)) => {
                let built = config.build(&(vars / "alignment"), channels, frozen);
                Some(built.map_err(|e| e.within("alignment"))?)
            }
            (Some(_), None) => {
                return Err(Error::config("alignment", "no frozen network is given: name one"));
            }
        };
        let adversary = self.adversary.as_ref().map(|c| c.build(images, seed, vars.device(), optimizer));
        Ok(AutoencoderObjective {
            log_variance: self.learn_log_variance.then(|| variable(vars, "log_variance", &[], ZERO)),
            adversary: adversary.transpose().map_err(|e| e.within("adversary"))?,
            config: self.clone(),
            model,
            perceptual,
            alignment,
        })
    }
}

/// The objective of [`AutoencoderObjectiveConfig`], on the images of a batch.
#[derive(Debug)]
pub struct AutoencoderObjective {
    config: AutoencoderObjectiveConfig,
    model: Rc<dyn LatentModel>,
    log_variance: Option<Tensor>,
    perceptual: Option<Perceptual>,
    adversary: Option<PatchAdversary>,
    alignment: Option<LatentAlignment>,
}

impl AutoencoderObjective {
    /// Negative log likelihood of the images for each of their numbers, `[B]`.
    fn likelihood(&self, x: &Tensor, x_hat: &Tensor, terms: &mut Terms) -> Result<Tensor> {
        let mut error = self.config.pixels.of(x, x_hat);
        terms.add("reconstruction", &error);
        if let Some(perceptual) = &self.perceptual {
            let seen = perceptual.distance(x, x_hat)?;
            if seen.size() != error.size() {
                let reason = format!("a distance of shape {:?} for {} images", seen.size(), x.size()[0]);
                return Err(Error::config("perceptual", reason));
            }
            terms.add("perceptual", &seen);
            error += seen.to_kind(Kind::Float) * self.config.perceptual_weight;
        }
        Ok(match &self.log_variance {
            None => error,
            Some(v) => {
                terms.add("log_variance", v);
                error / v.exp() + v
            }
        })
    }

    /// What the latents cost for each number of the images, `[B]`.
    fn regularized(&self, regularizer: &Regularizer, numbers: i64, terms: &mut Terms) -> Option<Tensor> {
        match regularizer {
            Regularizer::None => None,
            Regularizer::Kl(kl) => {
                terms.add("kl", kl);
                Some(kl * (self.config.kl_weight / numbers as f64))
            }
            Regularizer::Commitment(commitment) => {
                terms.add("commitment", commitment);
                Some(commitment * self.config.commitment_weight)
            }
        }
    }
}

/// Scalars for the log.
#[derive(Default)]
struct Terms(Vec<(&'static str, Tensor)>);

impl Terms {
    fn add(&mut self, name: &'static str, value: &Tensor) {
        self.0.push((name, value.detach().mean(Kind::Float)));
    }
}

impl Persist for AutoencoderObjective {
    fn state(&self) -> State {
        let mut state = State::default();
        if let Some(adversary) = &self.adversary {
            state.nest("adversary", adversary.state());
        }
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.adversary.as_mut().map_or(Ok(()), |a| a.load_state(state.unnest("adversary")))
    }
}

impl Objective for AutoencoderObjective {
    fn evaluate(&mut self, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let x = &batch.x_start;
        if batch.known.is_some() {
            let reason =
                "hides pixels: an autoencoder's loss needs whole images, so leave the corruption out";
            return Err(Error::config("known", reason));
        }
        let mut terms = Terms::default();
        let model = Rc::clone(&self.model);
        let last = model.last_layers();
        let Reconstruction { x_hat, latents, regularizer } = model.reconstruct(x);
        let likelihood = self.likelihood(x, &x_hat, &mut terms)?; // [B]
        let mean = likelihood.mean(Kind::Float);
        let mut rows = likelihood; // sums are not in place: `mean` shares its graph
        if let Some(price) = self.regularized(&regularizer, x.numel() as i64 / batch.len(), &mut terms) {
            rows = &rows + price;
        }
        if let Some(alignment) = &self.alignment {
            let (term, scalars) = alignment.term(&latents, x, &mean, last.encoder)?;
            terms.0.extend(scalars);
            rows = &rows + term;
        }
        if let Some(adversary) = &mut self.adversary {
            if let Some(term) = adversary.term([x, &x_hat], &mean, last.decoder, clock)? {
                rows = &rows + term;
            }
            terms.0.extend(adversary.terms());
        }
        Ok(Evaluation { loss: rows.mean(Kind::Float), rows: None, terms: terms.0 })
    }
}
