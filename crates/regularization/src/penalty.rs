//! Techniques that add a term to the loss.

mod adversarial;
mod consistency;
mod deep_supervision;
mod diffusion_length;
mod discriminator;
mod feature_alignment;
mod gradient_penalty;
mod input_gradient;
mod jacobian;
mod loss_gradient;
mod r1;
mod text_alignment;

pub use adversarial::{Adversarial, AdversarialConfig, AdversarialLoss, CriticLoss};
pub use consistency::ConsistencyConfig;
pub use deep_supervision::DeepSupervisionConfig;
pub use diffusion_length::{DiffusionConfig, LengthDraw};
pub use discriminator::Discriminator;
pub use feature_alignment::{FeatureAlignment, FeatureAlignmentConfig, FrozenFeatures};
pub use gradient_penalty::{GradientPenaltyConfig, gradient_penalty};
pub use input_gradient::InputGradientConfig;
pub use jacobian::{JacobianConfig, ProbeVectors};
pub use loss_gradient::{LossGradient, LossGradientConfig};
pub use r1::{R1Config, r1};
pub use text_alignment::{TextAlignment, TextAlignmentConfig};

#[cfg(test)]
pub(crate) use diffusion_length::DiffusionLength;

use heldout_core::{
    CurveConfig, Denoising, DenoisingPenalty, Error, Every, Optimizer, Params, Result, Scaled, Site, stream,
};
use serde::{Deserialize, Serialize};
use std::fmt;
use tch::{Tensor, nn};

/// A penalty as a recipe writes it: `weight * every * term` on every `every`th step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PenaltyConfig {
    /// Its weight over the run; where it is 0 the term is not computed.
    pub weight: CurveConfig,
    /// Period in steps (lazy regularisation).
    #[serde(default = "always")]
    pub every: u64,
    /// What is added.
    pub term: PenaltyTerm,
}

fn always() -> u64 {
    1
}

/// The terms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum PenaltyTerm {
    /// A flat denoiser.
    Jacobian(JacobianConfig),
    /// A loss that is flat in its input.
    InputGradient(InputGradientConfig),
    /// A loss that is flat in the weights.
    LossGradient(LossGradientConfig),
    /// Agreement between noise levels.
    Consistency(ConsistencyConfig),
    /// A loss at every depth.
    DeepSupervision(DeepSupervisionConfig),
    /// Features like those of a frozen network.
    FeatureAlignment(FeatureAlignmentConfig),
    /// Estimates that show their own text.
    TextAlignment(TextAlignmentConfig),
    /// Estimates that a critic takes for images.
    Adversarial(AdversarialConfig),
}

/// What penalties are built from besides their settings.
#[derive(Clone, Copy)]
pub struct PenaltyContext<'a> {
    /// The model's weights.
    pub params: &'a Params,
    /// Where the weights of what is trained with the model go, on the model's device.
    pub vars: &'a nn::Path<'a>,
    /// `[C, H, W]` of the data.
    pub shape: [i64; 3],
    /// The run's seed.
    pub seed: u64,
    /// Held-out images `[N, C, H, W]`, for the log alone.
    pub held_out: Option<&'a Tensor>,
    /// Makes a critic's optimiser.
    pub optimizer: &'a dyn Fn(&Params) -> Result<Box<dyn Optimizer>>,
    /// Opens the network whose features are to be followed.
    pub frozen: &'a dyn Fn(&FeatureAlignmentConfig) -> Result<FrozenFeatures>,
    /// Opens the image tower of a CLIP: estimates `[B, C, H, W]` to embeddings `[B, D]` with their graph.
    pub clip: &'a dyn Fn(&TextAlignmentConfig) -> Result<FrozenFeatures>,
    /// Channels of the model's activation at a site.
    pub channels: &'a dyn Fn(Site) -> Result<i64>,
}

impl fmt::Debug for PenaltyContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, seed, held_out, .. } = self;
        let mut f = f.debug_struct("PenaltyContext");
        f.field("shape", shape).field("seed", seed).field("held_out", held_out);
        f.finish_non_exhaustive()
    }
}

impl PenaltyConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        self.weight.check("weight", 0.0, f64::INFINITY)?;
        if self.every == 0 {
            return Err(Error::config("every", "0: a period of at least 1 is needed"));
        }
        self.term.check().map_err(|e| e.within("term"))
    }

    /// The term, every so often, times its weight. Seeds libtorch's generator where a term has weights of its own.
    pub fn build(&self, context: &PenaltyContext<'_>) -> Result<DenoisingPenalty> {
        self.check()?;
        let mut penalty = self.term.build(context).map_err(|e| e.within("term"))?;
        if self.every > 1 {
            penalty = Box::new(Every { k: self.every, inner: penalty });
        }
        Ok(Box::new(Scaled { inner: penalty, weight: self.weight.clone() }))
    }
}

impl PenaltyTerm {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Jacobian(c) => c.check(),
            Self::InputGradient(c) => c.check(),
            Self::LossGradient(c) => c.check(),
            Self::Consistency(c) => c.check(),
            Self::DeepSupervision(c) => c.check(),
            Self::FeatureAlignment(c) => c.check(),
            Self::TextAlignment(c) => c.check(),
            Self::Adversarial(c) => c.check(),
        }
    }

    fn build(&self, context: &PenaltyContext<'_>) -> Result<DenoisingPenalty> {
        Ok(match self {
            Self::Jacobian(c) => Box::new(*c),
            Self::InputGradient(c) => Box::new(*c),
            Self::LossGradient(_) => Box::new(LossGradient { params: context.params.shallow_clone() }),
            Self::Consistency(c) => Box::new(*c),
            Self::DeepSupervision(c) => Box::new(*c),
            Self::FeatureAlignment(c) => {
                let frozen = (context.frozen)(c)?;
                let channels = (context.channels)(c.site)?;
                tch::manual_seed(stream(context.seed, "projection", 0, 0) as i64);
                Box::new(c.build(&(context.vars / "feature_alignment"), channels, frozen)?)
            }
            Self::TextAlignment(c) => Box::new(c.build((context.clip)(c)?)?),
            Self::Adversarial(c) => Box::new(c.build(context)?),
        })
    }
}

/// The gradient of the sum of `y` by `x_t`, `[B, C, H, W]`, with its graph: that of every row, since no row sees
/// another.
fn gradient_by_input(name: &str, y: &Tensor, view: &Denoising<'_>) -> Result<Tensor> {
    let x_t = &view.noised.x_t;
    if !x_t.requires_grad() {
        return Err(Error::config(name, "x_t has no graph: the objective must ask `differentiates_input`"));
    }
    let mut grads = Tensor::f_run_backward(&[y], &[x_t], true, true)?;
    let gradient = grads.pop().filter(Tensor::defined);
    Ok(gradient.unwrap_or_else(|| x_t.detach().zeros_like()))
}

/// What the model made at `site`.
fn tapped<'a>(view: &'a Denoising<'_>, site: Site) -> Result<&'a Tensor> {
    let found = view.taps.iter().find(|(s, _)| *s == site);
    let missing = || Error::config("taps", format!("{site:?} was not seen: the model has no such site"));
    found.map(|(_, h)| h).ok_or_else(missing)
}
