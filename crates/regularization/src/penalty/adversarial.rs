//! A critic that tells estimates from images: adversarial losses, and Diffusion-GAN.

use super::diffusion_length::{DiffusionConfig, DiffusionLength};
use super::gradient_penalty::{GradientPenaltyConfig, gradient_penalty, positive};
use super::r1::{R1Config, r1};
use super::{Discriminator, PenaltyContext};
use heldout_core::{Denoising, Error, Optimizer, Params, Penalty, Persist, Result, State, View, stream};
use heldout_torch_ext::forget_grads;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// A score of how real `x_start_hat` looks to a critic that is trained beside the model: `[B, C, H, W] -> [B]`.
///
/// Wang et al. 2023 (Diffusion-GAN), section 3, where `diffusion` is set; Gulrajani et al. 2017, Algorithm 1, with
/// `wasserstein` and `gradient_penalty`. Every step trains the critic once, on real images and estimates that went
/// through the forward diffusion with the same drawn `t`; every `critic_steps`th step has the generator's term, whose
/// gradient goes through the forward diffusion, so that each critic step sees a fresh batch. On the other steps the
/// penalty is 0.
///
/// The log gets the mean scores of training images, of held-out images and of estimates, `critic_train`,
/// `critic_held_out` and `critic_fake`, and the length `critic_length`: a gap between the first two is the critic's
/// overfitting (Gulrajani et al. 2017, section 5).
///
/// Law: a saved and loaded critic goes on bit for bit; the generator's term leaves no gradient in the critic, the
/// critic's step none in the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AdversarialConfig {
    /// Widths of the critic's blocks.
    pub channels: Vec<i64>,
    /// What critic and model play for.
    pub loss: AdversarialLoss,
    /// The slope of the critic between real images and estimates.
    pub gradient_penalty: Option<GradientPenaltyConfig>,
    /// The slope of the critic at real images.
    pub r1: Option<R1Config>,
    /// Critic steps for every term of the model.
    pub critic_steps: u64,
    /// The critic's learning rate.
    pub rate: f64,
    /// Diffusion in front of the critic; none if absent.
    pub diffusion: Option<DiffusionConfig>,
}

impl Default for AdversarialConfig {
    fn default() -> Self {
        Self {
            channels: vec![32, 64, 128],
            loss: AdversarialLoss::default(),
            gradient_penalty: None,
            r1: None,
            critic_steps: 1,
            rate: 1e-4,
            diffusion: None,
        }
    }
}

/// What a critic and a model play for; of scores `[B]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum AdversarialLoss {
    /// Logistic, with the generator's gradient where it loses; Goodfellow et al. 2014, section 3.
    #[default]
    NonSaturating,
    /// Margins of 1; Miyato et al. 2018, Eq. 16 and 17.
    Hinge,
    /// Difference of means; Arjovsky et al. 2017, Eq. 3.
    Wasserstein,
}

impl AdversarialLoss {
    /// The critic's, one number.
    pub fn critic(self, real: &Tensor, fake: &Tensor) -> Tensor {
        let both = match self {
            Self::NonSaturating => (-real).softplus() + fake.softplus(),
            Self::Hinge => (1.0f64 - real).relu() + (fake + 1.0).relu(),
            Self::Wasserstein => fake - real,
        };
        both.mean(None::<Kind>)
    }

    /// The generator's, `[B]`.
    pub fn generator(self, fake: &Tensor) -> Tensor {
        match self {
            Self::NonSaturating => (-fake).softplus(),
            Self::Hinge | Self::Wasserstein => -fake,
        }
    }
}

/// A critic's loss with what it is made of.
#[derive(Debug)]
pub struct CriticLoss {
    /// One number, with the critic's graph.
    pub loss: Tensor,
    /// Scores of real images, `[B]`.
    pub real: Tensor,
    /// Scores of generated ones, `[B]`.
    pub fake: Tensor,
}

impl AdversarialConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let fail = |field: &str, reason: &str| Err(Error::config(field, reason));
        if self.channels.is_empty() || self.channels.iter().any(|c| *c < 1) {
            return fail("channels", &format!("{:?}: at least one width from 1 up", self.channels));
        }
        if self.critic_steps == 0 {
            return fail("critic_steps", "0: at least 1 is needed");
        }
        if self.loss == AdversarialLoss::Wasserstein && self.gradient_penalty.is_none() && self.r1.is_none() {
            return fail("loss", "wasserstein has no bound without gradient_penalty = {}: set it");
        }
        positive("rate", self.rate)?;
        self.gradient_penalty.map_or(Ok(()), |c| c.check()).map_err(|e| e.within("gradient_penalty"))?;
        self.r1.map_or(Ok(()), |c| c.check()).map_err(|e| e.within("r1"))?;
        self.diffusion.map_or(Ok(()), |c| c.check()).map_err(|e| e.within("diffusion"))
    }

    /// The critic's loss on images as it sees them, `[B, ..]`, with the regularisers that are due at critic step
    /// `step`; `mix` draws the `[B]` numbers in `[0, 1]` of the gradient penalty.
    pub fn critic_loss(
        &self,
        step: u64,
        critic: impl Fn(&Tensor) -> Tensor,
        [real, fake]: [&Tensor; 2],
        mix: impl FnOnce() -> Tensor,
    ) -> Result<CriticLoss> {
        let scores = [critic(real), critic(fake)];
        let mut loss = self.loss.critic(&scores[0], &scores[1]);
        if let Some(c) = self.gradient_penalty.filter(|c| step.is_multiple_of(c.every)) {
            loss += gradient_penalty(&critic, real, fake, &mix())? * (c.weight * c.every as f64);
        }
        if let Some(c) = self.r1.filter(|c| step.is_multiple_of(c.every)) {
            loss += r1(&critic, real)? * (0.5 * c.gamma * c.every as f64);
        }
        let [real, fake] = scores.map(|s| s.detach());
        Ok(CriticLoss { loss, real, fake })
    }

    /// A fresh critic, the same for every run of this seed.
    pub fn build(&self, context: &PenaltyContext<'_>) -> Result<Adversarial> {
        self.check()?;
        tch::manual_seed(stream(context.seed, "critic", 0, 0) as i64);
        let device = context.vars.device();
        let vars = nn::VarStore::new(device);
        let net = Discriminator::new(&vars.root(), context.shape, &self.channels);
        let params = Params::of(&vars);
        Ok(Adversarial {
            config: self.clone(),
            optimizer: (context.optimizer)(&params)?,
            critic: Critic { net, params, vars },
            length: self.diffusion.map(|c| DiffusionLength::new(c, device)),
            held_out: context.held_out.map(|x| x.to_device(device).to_kind(Kind::Float)),
            calls: 0,
            terms: Vec::new(),
        })
    }
}

/// A network and its weights.
#[derive(Debug)]
pub(crate) struct Critic {
    pub(crate) net: Discriminator,
    pub(crate) params: Params,
    vars: nn::VarStore,
}

impl Critic {
    /// Scores through weights that are constants.
    fn frozen<T>(&mut self, score: impl FnOnce(&Discriminator) -> T) -> T {
        self.vars.freeze();
        let scores = score(&self.net);
        self.vars.unfreeze();
        scores
    }
}

/// The penalty of [`AdversarialConfig`].
#[derive(Debug)]
pub struct Adversarial {
    config: AdversarialConfig,
    pub(crate) critic: Critic,
    optimizer: Box<dyn Optimizer>,
    length: Option<DiffusionLength>,
    pub(crate) held_out: Option<Tensor>,
    /// Critic steps so far.
    calls: u64,
    terms: Vec<(&'static str, Tensor)>,
}

/// What the critic sees of `x`: it, or it diffused with fresh noise, which comes with it.
fn seen(length: Option<&DiffusionLength>, x: &Tensor, t: &Tensor) -> (Tensor, Option<Tensor>) {
    let Some(length) = length else { return (x.shallow_clone(), None) };
    let noise = x.detach().randn_like();
    (length.diffuse(x, t, &noise), Some(noise))
}

impl Adversarial {
    /// One step of the critic on images `[B, ..]` without graphs, seen at levels `t`.
    fn train_critic(&mut self, real: &Tensor, fake: &Tensor, t: &Tensor) -> Result<()> {
        let Self { config, critic, optimizer, length, held_out, .. } = self;
        let (real, noise) = seen(length.as_ref(), real, t);
        let (fake, _) = seen(length.as_ref(), fake, t);
        let score = |x: &Tensor| critic.net.forward(x, t);
        let mix = || Tensor::rand([real.size()[0]], (Kind::Float, real.device()));
        let CriticLoss { loss, real, fake } = config.critic_loss(self.calls, score, [&real, &fake], mix)?;
        let mean = |scores: &Tensor| scores.mean(Kind::Float);
        self.terms = vec![("critic_train", mean(&real)), ("critic_fake", mean(&fake))];
        if let Some(held_out) = held_out {
            // The same levels and noise, in turn, before the critic moves: without draws, so that looking changes no run.
            let place = (Kind::Int64, t.device());
            let rows = Tensor::arange(held_out.size()[0], place).remainder(t.size()[0]);
            let of_rows = |all: &Tensor| all.index_select(0, &rows);
            let t = of_rows(t);
            let diffused =
                length.as_ref().zip(noise).map(|(l, noise)| l.diffuse(held_out, &t, &of_rows(&noise)));
            let scores = tch::no_grad(|| critic.net.forward(diffused.as_ref().unwrap_or(held_out), &t));
            self.terms.push(("critic_held_out", mean(&scores)));
        }

        let handles = critic.params.handles();
        forget_grads(&handles);
        loss.f_backward()?;
        optimizer.step(&critic.params, config.rate);
        forget_grads(&handles);
        if let Some(length) = length {
            length.observe(&real);
            let now = Tensor::full([1], length.length(), (Kind::Float, t.device())).squeeze();
            self.terms.push(("critic_length", now));
        }
        self.calls += 1;
        Ok(())
    }
}

impl Persist for Adversarial {
    fn state(&self) -> State {
        let mut state = State::default();
        state.set_count("calls", self.calls);
        state.nest("critic", self.critic.params.state());
        state.nest("optimizer", self.optimizer.state());
        if let Some(length) = &self.length {
            state.nest("length", length.state());
        }
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.calls = state.count("calls")?;
        self.critic.params.load_state(state.unnest("critic"))?;
        self.optimizer.load_state(state.unnest("optimizer"))?;
        self.length.as_mut().map_or(Ok(()), |length| length.load_state(state.unnest("length")))
    }
}

impl Penalty<Denoising<'_>> for Adversarial {
    fn name(&self) -> &'static str {
        "adversarial"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let real = view.noised.x_start.detach().to_kind(Kind::Float);
        let hat = view.x_start_hat.to_kind(Kind::Float);
        let (rows, place) = (real.size()[0], (Kind::Int64, real.device()));
        let t = self.length.as_ref().map_or_else(|| Tensor::zeros([rows], place), |length| length.draw(rows));
        self.train_critic(&real, &hat.detach(), &t)?;
        if !self.calls.is_multiple_of(self.config.critic_steps) {
            return Ok(view.zeros());
        }
        let (seen, _) = seen(self.length.as_ref(), &hat, &t);
        let scores = self.critic.frozen(|net| net.forward(&seen, &t));
        Ok(self.config.loss.generator(&scores))
    }

    fn terms(&self) -> Vec<(&'static str, Tensor)> {
        self.terms.iter().map(|(name, value)| (*name, value.shallow_clone())).collect()
    }
}
