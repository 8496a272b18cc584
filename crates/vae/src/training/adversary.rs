//! A critic of patches beside an autoencoder.

use super::{PatchCritic, balance};
use heldout_core::{Clock, Error, Optimizer, Params, Persist, Result, State, mean_flat, stream};
use heldout_torch_ext::forget_grads;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// A term of the loss by how real a [`PatchCritic`] finds reconstructions, balanced against the rest.
///
/// Esser et al. 2021, Eq. 6 and 7, with the hinge loss. From `start_step` on every evaluation trains the critic once, on
/// images and their reconstructions, and then has the autoencoder's term: through the critic as it then is.
///
/// Law: a saved and loaded critic goes on bit for bit; the term leaves no gradient in the critic, the critic's step none in
/// the autoencoder. Without gradients (a held-out measurement) neither happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PatchAdversaryConfig {
    /// The step from which on it is there, so that it meets images and not noise: Esser et al. 2021, section 4.
    pub start_step: u64,
    /// Convolutions of stride 2: 3 look at patches of 70 pixels.
    #[serde(default = "layers")]
    pub layers: u32,
    /// Channels of the first.
    #[serde(default = "channels")]
    pub channels: i64,
    /// Multiplies the balanced term.
    #[serde(default = "weight")]
    pub weight: f64,
    /// The critic's learning rate.
    #[serde(default = "rate")]
    pub rate: f64,
}

fn layers() -> u32 {
    3
}

fn channels() -> i64 {
    64
}

fn weight() -> f64 {
    0.5
}

fn rate() -> f64 {
    1e-4
}

impl PatchAdversaryConfig {
    /// Which field cannot be honoured for images `[C, H, W]`.
    pub fn check(&self, [_, height, width]: [i64; 3]) -> Result<()> {
        PatchCritic::check(self.layers, [height, width])?;
        let fail = |field: &str, value: String| {
            Err(Error::config(field, format!("{value}: a finite number above 0 is needed")))
        };
        match self {
            Self { channels, .. } if *channels < 1 => fail("channels", channels.to_string()),
            Self { weight, .. } if !(weight.is_finite() && *weight > 0.0) => {
                fail("weight", weight.to_string())
            }
            Self { rate, .. } if !(rate.is_finite() && *rate > 0.0) => fail("rate", rate.to_string()),
            _ => Ok(()),
        }
    }

    /// A fresh critic of images `[C, H, W]`, the same for every run of this seed; `optimizer` makes its optimiser.
    pub fn build(
        &self,
        images: [i64; 3],
        seed: u64,
        device: tch::Device,
        optimizer: &dyn Fn(&Params) -> Result<Box<dyn Optimizer>>,
    ) -> Result<PatchAdversary> {
        self.check(images)?;
        tch::manual_seed(stream(seed, "critic", 0, 0) as i64);
        let vars = nn::VarStore::new(device);
        let critic = PatchCritic::new(&vars.root(), images[0], self.layers, self.channels);
        let params = Params::of(&vars);
        let optimizer = optimizer(&params)?;
        Ok(PatchAdversary { config: self.clone(), critic, params, vars, optimizer, terms: Vec::new() })
    }
}

/// The critic of [`PatchAdversaryConfig`].
#[derive(Debug)]
pub struct PatchAdversary {
    config: PatchAdversaryConfig,
    critic: PatchCritic,
    params: Params,
    vars: nn::VarStore,
    optimizer: Box<dyn Optimizer>,
    terms: Vec<(&'static str, Tensor)>,
}

impl PatchAdversary {
    /// Trains the critic once and gives the autoencoder's balanced term, `[B]`; `None` before its start and without
    /// gradients. `loss` is one number, the rest of the loss; `last` the weight of the decoder's last layer.
    pub(crate) fn term(
        &mut self,
        [x, x_hat]: [&Tensor; 2],
        loss: &Tensor,
        last: &Tensor,
        clock: Clock,
    ) -> Result<Option<Tensor>> {
        self.terms.clear();
        if clock.step < self.config.start_step || !x_hat.requires_grad() {
            return Ok(None);
        }
        self.train(&x.detach(), &x_hat.detach())?;
        self.vars.freeze(); // its weights are constants of the term
        let term = -mean_flat(&self.critic.forward(x_hat));
        self.vars.unfreeze();
        let balance = balance(loss, &term.mean(Kind::Float), last)?;
        self.terms.push(("adversarial", term.detach().mean(Kind::Float)));
        self.terms.push(("adversarial_balance", balance.shallow_clone()));
        Ok(Some(term * balance * self.config.weight))
    }

    /// One step of the critic by the hinge loss, Lim and Ye 2017, with the half of Esser et al.
    fn train(&mut self, real: &Tensor, fake: &Tensor) -> Result<()> {
        // One pass each: the norm is of each row, but a joint batch would double the memory of its largest maps.
        let [real, fake] = [real, fake].map(|x| self.critic.forward(x));
        let loss = ((1.0f64 - &real).relu().mean(Kind::Float) + (&fake + 1.0).relu().mean(Kind::Float)) * 0.5;
        self.terms.push(("critic_real", real.detach().mean(Kind::Float)));
        self.terms.push(("critic_fake", fake.detach().mean(Kind::Float)));
        let handles = self.params.handles();
        forget_grads(&handles);
        loss.f_backward()?;
        self.optimizer.step(&self.params, self.config.rate);
        forget_grads(&handles);
        Ok(())
    }

    /// Scalars of the last call for the log.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (&'static str, Tensor)> {
        self.terms.iter().map(|(name, value)| (*name, value.shallow_clone()))
    }
}

impl Persist for PatchAdversary {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("critic", self.params.state());
        state.nest("optimizer", self.optimizer.state());
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.params.load_state(state.unnest("critic"))?;
        self.optimizer.load_state(state.unnest("optimizer"))
    }
}
