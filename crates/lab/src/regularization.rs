//! The techniques of a recipe, and how they are put together.

use crate::recipe::{Recipe, TrainConfig};
use heldout_core::{
    Batch, BatchSource, Curve, Denoiser, DenoisingPenalty, Error, NoiseSchedule, NoiseSource, Params, Result,
    TimeSampler, Update,
};
use heldout_regularization::{
    Ambient, AmbientConfig, AugmentTechnique, Augmented, Gaussian, GradientTechnique, HeldOutLoss,
    NoiseTechnique, PenaltyConfig, PenaltyContext, PenaltyTerm, SwaConfig, SwaRate, TextAlignmentConfig,
    TimesTechnique, WeightsTechnique, build_gradient, build_update,
};
use heldout_schedules::Prediction;
use heldout_train::{Backprop, OptimizerStep, ValidationSets, validation_loss};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::rc::Rc;

/// Techniques by the value that they change; in each list the first is the innermost, or acts first.
///
/// In a step: `corruption` and `augment` make the batch, `times` and `noise` its training points, `penalty` adds to the
/// loss, `gradient` makes the gradient of it, and `weights` follows the optimiser.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegularizationConfig {
    /// Pixels that nobody sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub corruption: Option<AmbientConfig>,
    /// On the inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub augment: Vec<AugmentTechnique>,
    /// On the draws of the noise level, around `objective.times`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<TimesTechnique>,
    /// On the noise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<NoiseTechnique>,
    /// Terms of the loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub penalty: Vec<PenaltyConfig>,
    /// On the gradient.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gradient: Vec<GradientTechnique>,
    /// On the weights after the step, or for evaluation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<WeightsTechnique>,
}

/// The place of a technique in its list.
fn at(list: &str, i: usize) -> impl FnOnce(Error) -> Error {
    let field = format!("{list}[{i}]");
    move |e| e.within(&field)
}

impl RegularizationConfig {
    /// Which field cannot be honoured, as far as the recipe alone can tell.
    pub(crate) fn check(&self, recipe: &Recipe, schedule: &Rc<dyn NoiseSchedule>) -> Result<()> {
        let rows = recipe.train.batch_size;
        self.check_corruption(recipe)?;
        self.check_label_dropout(recipe)?;
        for (i, times) in self.times.iter().enumerate() {
            times.check(schedule.as_ref()).map_err(at("times", i))?;
        }
        self.noise(schedule)?;
        let mut critics = 0;
        for (i, penalty) in self.penalty.iter().enumerate() {
            penalty.check().map_err(at("penalty", i))?;
            if let PenaltyTerm::TextAlignment(config) = &penalty.term {
                self.check_text_alignment(recipe, config).map_err(at("penalty", i))?;
            }
            critics += usize::from(matches!(penalty.term, PenaltyTerm::Adversarial(_)));
            if critics > 1 {
                let reason =
                    "adversarial: a second critic, whose scores the log could not tell from the first's";
                return Err(Error::config(format!("penalty[{i}].term.kind"), reason));
            }
        }
        build_gradient(&self.gradient, Box::new(Backprop), rows)?;
        let mut weights = self.weights.iter().enumerate();
        weights.try_for_each(|(i, technique)| technique.check(rows).map_err(at("weights", i)))?;
        self.check_swa(recipe)
    }

    /// A constant rate above all others would undo what it averages.
    fn check_swa(&self, recipe: &Recipe) -> Result<()> {
        let peak = recipe.train.learning_rate.peak;
        let above = |(i, w): (usize, &WeightsTechnique)| match w {
            WeightsTechnique::Swa(SwaConfig { rate: Some(rate), .. }) if *rate > peak => Some((i, *rate)),
            _ => None,
        };
        match self.weights.iter().enumerate().find_map(above) {
            Some((i, rate)) => {
                let reason = format!(
                    "{rate} is above train.learning_rate.peak = {peak}: a fourth of the peak is usual"
                );
                Err(Error::config(format!("weights[{i}].rate"), reason))
            }
            None => Ok(()),
        }
    }

    /// An alignment with texts needs some, and examples have vectors of one CLIP.
    fn check_text_alignment(&self, recipe: &Recipe, config: &TextAlignmentConfig) -> Result<()> {
        if recipe.text.is_none() {
            let reason = "text_alignment: needs a table `text`, and captions beside the images";
            return Err(Error::config("term.kind", reason));
        }
        match self.text_alignment() {
            Some(first) if first.clip != config.clip => {
                let reason =
                    format!("{}: the first alignment has another, {}: use one", config.clip, first.clip);
                Err(Error::config("term.clip", reason))
            }
            _ => Ok(()),
        }
    }

    /// Without classes there is nothing to drop.
    fn check_label_dropout(&self, recipe: &Recipe) -> Result<()> {
        let is_dropout = |a: &AugmentTechnique| matches!(a, AugmentTechnique::LabelDropout(_));
        match self.augment.iter().position(is_dropout) {
            Some(i) if recipe.model.classes() == 0 => {
                let reason = "label_dropout, where the model knows no classes: set model.num_class_embeds to the classes and one \
                              for none, or leave it out";
                Err(Error::config(format!("augment[{i}].kind"), reason))
            }
            _ => Ok(()),
        }
    }

    fn check_corruption(&self, recipe: &Recipe) -> Result<()> {
        let Some(corruption) = &self.corruption else { return Ok(()) };
        corruption.check().map_err(|e| e.within("corruption"))?;
        if recipe.objective.prediction != Prediction::XStart {
            let reason =
                "needs objective.prediction = \"x_start\": what is not seen must not be in the estimate";
            return Err(Error::config("corruption", reason));
        }
        let compares = |p: &PenaltyConfig| {
            let term = &p.term;
            matches!(
                term,
                PenaltyTerm::DeepSupervision(_)
                    | PenaltyTerm::FeatureAlignment(_)
                    | PenaltyTerm::Adversarial(_)
            )
        };
        if let Some(i) = self.penalty.iter().position(compares) {
            let reason = "compares with pixels that nobody knows: leave it out, or the corruption";
            return Err(Error::config(format!("penalty[{i}].term.kind"), reason));
        }
        Ok(())
    }

    /// Which field does not fit images of `shape`.
    pub(crate) fn check_shape(&self, shape: [i64; 3]) -> Result<()> {
        let mut augment = self.augment.iter().enumerate();
        augment.try_for_each(|(i, technique)| technique.check(shape).map_err(at("augment", i)))
    }

    /// The first alignment with texts.
    pub(crate) fn text_alignment(&self) -> Option<&TextAlignmentConfig> {
        self.penalty.iter().find_map(|penalty| match &penalty.term {
            PenaltyTerm::TextAlignment(config) => Some(config),
            _ => None,
        })
    }

    /// Class that stands for none, where labels are dropped on the way to the network.
    pub(crate) fn null_class(&self) -> Option<i64> {
        self.augment.iter().find_map(|technique| match technique {
            AugmentTechnique::LabelDropout(dropout) => Some(dropout.null),
            _ => None,
        })
    }

    /// Batches as the objective sees them.
    pub(crate) fn source(
        &self,
        clean: impl BatchSource + 'static,
        shape: [i64; 3],
        seed: u64,
    ) -> Result<Box<dyn BatchSource>> {
        let inner: Box<dyn BatchSource> = match self.corruption {
            Some(config) => Box::new(Ambient::new(clean, config)?),
            None => Box::new(clean),
        };
        if self.augment.is_empty() {
            return Ok(inner);
        }
        let augments = self.augment.iter().enumerate();
        let augments = augments.map(|(i, a)| a.build(shape).map_err(at("augment", i)));
        Ok(Box::new(Augmented { inner, augments: augments.collect::<Result<_>>()?, seed, rank: 0 }))
    }

    /// Draws of the noise level; `held_out` is what a curriculum may be paced by.
    pub(crate) fn times(
        &self,
        plain: Box<dyn TimeSampler>,
        schedule: &Rc<dyn NoiseSchedule>,
        held_out: impl Fn() -> Result<HeldOutLoss>,
    ) -> Result<Box<dyn TimeSampler>> {
        let mut techniques = self.times.iter().enumerate();
        techniques.try_fold(plain, |inner, (i, technique)| {
            technique.wrap(inner, schedule, Some(held_out()?)).map_err(at("times", i))
        })
    }

    /// Draws of the noise.
    pub(crate) fn noise(&self, schedule: &Rc<dyn NoiseSchedule>) -> Result<Box<dyn NoiseSource>> {
        let plain: Box<dyn NoiseSource> = Box::new(Gaussian);
        let mut techniques = self.noise.iter().enumerate();
        techniques.try_fold(plain, |inner, (i, technique)| {
            technique.check().and_then(|()| technique.wrap(inner, schedule)).map_err(at("noise", i))
        })
    }

    /// Terms of the loss.
    pub(crate) fn penalties(&self, context: &PenaltyContext<'_>) -> Result<Vec<DenoisingPenalty>> {
        let penalties = self.penalty.iter().enumerate();
        penalties.map(|(i, penalty)| penalty.build(context).map_err(at("penalty", i))).collect()
    }

    /// What moves the weights: the gradient with all that is listed around it, the optimiser, and all that is around that.
    pub(crate) fn update(&self, config: &TrainConfig, params: Params) -> Result<Box<dyn Update>> {
        let optimizer = config.optimizer.build(&params).map_err(|e| e.within("train.optimizer"))?;
        let gradient = build_gradient(&self.gradient, Box::new(Backprop), config.batch_size)?;
        let step =
            OptimizerStep::new(params, optimizer, gradient, self.learning_rate(config), config.non_finite);
        build_update(&self.weights, Box::new(step), config.batch_size)
    }

    /// That of the recipe, or the plan of weight averaging.
    fn learning_rate(&self, config: &TrainConfig) -> Box<dyn Curve> {
        let plan = self.weights.iter().find_map(|w| match w {
            WeightsTechnique::Swa(SwaConfig { start, rate: Some(rate), .. }) => Some((*start, *rate)),
            _ => None,
        });
        let inner = config.learning_rate;
        match plan {
            Some((start, rate)) => Box::new(SwaRate { inner, start, rate }),
            None => Box::new(inner),
        }
    }
}

/// Mean held-out loss of `model` at given noise levels, for a curriculum: with the weights as they are.
pub(crate) fn held_out_loss(model: Rc<dyn Denoiser>, images: Batch, batch: usize, seed: u64) -> HeldOutLoss {
    HeldOutLoss(Box::new(move |log_snr| {
        let sets = ValidationSets {
            train: images.shallow_clone(),
            held_out: images.shallow_clone(),
            log_snr: log_snr.to_vec(),
            batch: batch as i64,
            seed,
        };
        let losses = validation_loss(model.as_ref(), &images, &sets);
        losses.iter().sum::<f64>() / losses.len().max(1) as f64
    }))
}
