//! The parts of an arm's training.

use crate::adapter::{self, Adaptation, Hinted};
use crate::arm::Arm;
use crate::assemble::{Assembled, Loss, model};
use crate::captioned::Captioned;
use crate::clip::clip_images;
use crate::conditions::Side;
use crate::frozen::frozen;
use crate::recipe::INITIAL_WEIGHTS;
use crate::regularization::held_out_loss;
use anyhow::{Result, anyhow};
use heldout_adapters::copy_weights;
use heldout_core::{
    Backbone, BatchSource, Clock, Cond, Error, Input, NoiseSchedule, Params, Preconditioned, Recorder, Site,
    Update, stream,
};
use heldout_regularization::PenaltyContext;
use heldout_train::{DenoisingObjective, OptimizerConfig};
use std::rc::Rc;
use tch::{Kind, Tensor, nn};

/// A critic's optimiser; Gulrajani et al. 2017, section 5.
pub(crate) const CRITIC: OptimizerConfig =
    OptimizerConfig::Adam { betas: [0.5, 0.9], eps: 1e-8, weight_decay: 0.0 };

/// All that takes part in a step.
pub(crate) struct Parts {
    pub(crate) model: Rc<Preconditioned>,
    /// Of a recipe with an adapter.
    pub(crate) adaptation: Option<Adaptation>,
    pub(crate) schedule: Rc<dyn NoiseSchedule>,
    /// Numbers that are trained.
    pub(crate) parameters: usize,
    pub(crate) data: Box<dyn BatchSource>,
    pub(crate) objective: DenoisingObjective,
    pub(crate) update: Box<dyn Update>,
}

impl Arm<'_> {
    /// Puts them together, or says which field of the recipe does not fit the others.
    pub(crate) fn parts(&self) -> Result<Parts> {
        let made = model(self.recipe, &self.space, (self.seed, self.bases.as_ref()), self.device)?;
        let Assembled { vars, model, loss, adaptation } = made;
        self.start_weights(&vars)?;
        let schedule = loss.schedule.clone();
        let mut data = self.source()?;
        self.check_input(model.backbone.as_ref(), data.as_mut())?;
        let within = |e: Error| e.within("regularization");
        let parameters = Params::of(&vars).count();
        let objective = self.objective(&vars, &model, loss).map_err(within)?;
        let techniques = &self.recipe.regularization;
        let update = techniques.update(&self.recipe.train, Params::of(&vars)).map_err(within)?;
        Ok(Parts { model, adaptation, schedule, parameters, data, objective, update })
    }

    /// Those of another model, where the recipe names one.
    fn start_weights(&self, vars: &nn::VarStore) -> Result<()> {
        let Some(base) = &self.recipe.initial_weights else { return Ok(()) };
        let (recipe, space, bases) = (self.recipe, &self.space, self.bases.as_ref());
        let site = adapter::Site { recipe, space, seed: self.seed, device: self.device, bases };
        let Some((path, model)) = site.opened(INITIAL_WEIGHTS, base)? else { return Ok(()) };
        let not_of_the_network = ["schedule.", "uncertainty."];
        copy_weights(&model.vars, vars, &not_of_the_network).map_err(|e| {
            let reason = format!("{}: has another network: {e}", path.display());
            anyhow!(Error::config(INITIAL_WEIGHTS, reason))
        })
    }

    /// Batches with all that is done to them.
    fn source(&self) -> Result<Box<dyn BatchSource>> {
        let batches = self.encoded(self.batches()?)?;
        let source = self.recipe.regularization.source(batches, self.shape(), self.seed);
        let inner = source.map_err(|e| e.within("regularization"))?;
        Ok(match self.hints() {
            None => inner,
            Some(hints) => {
                let images = self.recipe.latent.is_some().then(|| self.train.shallow_clone());
                Box::new(Hinted { inner, hints, images })
            }
        })
    }

    /// Training batches with the texts of their images, where the model is told of them.
    pub(crate) fn captioned(&self, inner: Box<dyn BatchSource>) -> Result<Box<dyn BatchSource>> {
        let Some(texts) = &self.texts else { return Ok(inner) };
        let clip = self.recipe.regularization.text_alignment().map(|config| config.clip.as_str());
        Ok(Box::new(Captioned::new(inner, texts.clone(), clip, self.device)?))
    }

    /// Whether the network takes what the first batch holds.
    fn check_input(&self, backbone: &dyn Backbone, data: &mut dyn BatchSource) -> Result<()> {
        let mut batch = data.batch(Clock { step: 0, total: self.recipe.train.steps })?;
        if self.recipe.model.classes() == 0 {
            batch.cond.label = None; // labels go with the images, for techniques too
        }
        batch.cond.text_embeds = None; // for an alignment alone
        let level = Tensor::ones([batch.len()], (Kind::Float, self.device));
        let input = Input { x: &batch.x_start, noise_level: &level, cond: &batch.cond, train: true };
        Ok(backbone.check(input).map_err(|e| e.within("model"))?)
    }

    /// The loss with all its terms; what is trained with the model gets its variables in `vars`.
    fn objective(
        &self,
        vars: &nn::VarStore,
        model: &Rc<Preconditioned>,
        loss: Loss,
    ) -> heldout_core::Result<DenoisingObjective> {
        let Loss { schedule, times, weighting, mut penalties } = loss;
        let techniques = &self.recipe.regularization;
        let images = (self.recipe.validation.images as i64).min(self.in_space.held_out.size()[0]);
        let held_out = self.in_space.held_out.narrow(0, 0, images);
        let batch = self.recipe.train.batch_size;
        let pace = || {
            let seed = stream(self.seed, "curriculum", 0, 0);
            let held_out = self.told(Side::HeldOut, images)?;
            Ok(held_out_loss(model.clone(), held_out, self.recipe.sample.batch_size, seed))
        };
        let context = PenaltyContext {
            params: &Params::of(vars),
            vars: &vars.root(),
            shape: self.shape(),
            seed: self.seed,
            held_out: Some(&held_out.narrow(0, 0, images.min(batch as i64))),
            optimizer: &|params| CRITIC.build(params),
            frozen: &|config| {
                frozen(config, &self.space, self.device)
                    .map_err(|e| e.downcast().unwrap_or_else(|e| Error::config("network", format!("{e:#}"))))
            },
            clip: &|config| clip_images(config, &self.space, self.device),
            channels: &|site| self.channels(model, site),
        };
        penalties.extend(techniques.penalties(&context)?);
        Ok(DenoisingObjective {
            model: model.clone(),
            times: techniques.times(times, &schedule, pace)?,
            noise: techniques.noise(&schedule)?,
            weighting,
            penalties,
        })
    }

    /// Channels of the model's activation at `site`.
    fn channels(&self, model: &Preconditioned, site: Site) -> heldout_core::Result<i64> {
        let x = self.in_space.train.narrow(0, 0, 1);
        let class = Tensor::zeros([1], (Kind::Int64, self.device));
        let told = self.told(Side::Train, 1)?.cond;
        let cond = Cond { label: (self.recipe.model.classes() > 0).then_some(class), ..told };
        let mut seen = Recorder { wanted: vec![site], seen: Vec::new() };
        let t = Tensor::full([1], 0.5, (Kind::Double, self.device));
        let scalings = model.parameterization.scalings(&model.schedule.marginal(&t));
        let _ = tch::no_grad(|| model.raw(&x, &scalings, &cond, true, &mut seen));
        let size = seen
            .seen
            .first()
            .map(|(_, h)| h.size())
            .ok_or_else(|| Error::config("site", format!("{site:?}: the model has no such place")))?;
        Ok(if size.len() == 4 { size[1] } else { size[size.len() - 1] })
    }
}
