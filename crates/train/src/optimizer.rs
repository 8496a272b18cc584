//! Optimisers whose whole state can be written down, which libtorch's own cannot.

use heldout_core::{Error, Optimizer, Params, Persist, Result, State};
use heldout_torch_ext::{Adam, adam_, add_, scale_};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// An optimiser as a recipe writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimizerConfig {
    /// Kingma and Ba 2015, Algorithm 1; weight decay is added to the gradient.
    Adam {
        /// Decays of the two moments.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
        /// L2 penalty.
        weight_decay: f64,
    },
    /// Loshchilov and Hutter 2019, Algorithm 2; weight decay acts on the weights alone.
    AdamW {
        /// Decays of the two moments.
        betas: [f64; 2],
        /// Added to the denominator.
        eps: f64,
        /// Decoupled decay, times the learning rate.
        weight_decay: f64,
    },
    /// Gradient descent with momentum; Sutskever et al. 2013, in PyTorch's form.
    Sgd {
        /// Decay of the velocity; 0 for none.
        momentum: f64,
        /// Whether to look ahead.
        nesterov: bool,
        /// L2 penalty.
        weight_decay: f64,
    },
}

impl OptimizerConfig {
    /// For these parameters, with all moments 0.
    pub fn build(&self, params: &Params) -> Result<Box<dyn Optimizer>> {
        self.check()?;
        let zeros = || params.tensors().map(|p| p.detach().zeros_like()).collect::<Vec<_>>();
        let second = if matches!(self, Self::Sgd { .. }) { Vec::new() } else { zeros() };
        let names = params.named().map(|(n, _)| n.to_owned()).collect();
        Ok(Box::new(Moments { config: self.clone(), steps: 0, names, first: zeros(), second }))
    }

    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        let share = |x: f64| (0.0..1.0).contains(&x);
        let decay = match *self {
            Self::Adam { betas, eps, weight_decay } | Self::AdamW { betas, eps, weight_decay } => {
                if !betas.into_iter().all(share) {
                    return fail("betas", format!("{betas:?}: both lie in [0, 1)"));
                }
                if !(eps > 0.0 && eps.is_finite()) {
                    return fail("eps", format!("{eps} is not a positive number"));
                }
                weight_decay
            }
            Self::Sgd { momentum, nesterov, weight_decay } => {
                if !share(momentum) {
                    return fail("momentum", format!("{momentum} is not in [0, 1)"));
                }
                if nesterov && momentum == 0.0 {
                    return fail("nesterov", "true needs a momentum above 0".to_owned());
                }
                weight_decay
            }
        };
        if decay >= 0.0 && decay.is_finite() {
            return Ok(());
        }
        fail("weight_decay", format!("{decay} is not a number from 0 up"))
    }
}

/// An optimiser over named tensors, with its moments.
#[derive(Debug)]
struct Moments {
    config: OptimizerConfig,
    steps: u64,
    names: Vec<String>,
    /// First moments, or velocities.
    first: Vec<Tensor>,
    /// Second moments; empty for SGD.
    second: Vec<Tensor>,
}

impl Optimizer for Moments {
    fn step(&mut self, params: &Params, rate: f64) {
        self.steps += 1;
        let grads: Vec<(usize, Tensor, Tensor)> = params
            .tensors()
            .enumerate()
            .map(|(i, p)| (i, p.shallow_clone(), p.grad()))
            .filter(|(_, _, g)| g.defined())
            .collect();
        tch::no_grad(|| match self.config {
            OptimizerConfig::Adam { betas, eps, weight_decay } => {
                self.adam(&grads, &Adam { rate, betas, eps, weight_decay, decoupled: false });
            }
            OptimizerConfig::AdamW { betas, eps, weight_decay } => {
                self.adam(&grads, &Adam { rate, betas, eps, weight_decay, decoupled: true });
            }
            OptimizerConfig::Sgd { momentum, nesterov, weight_decay } => {
                self.sgd(&grads, rate, [momentum, weight_decay], nesterov);
            }
        });
    }
}

impl Moments {
    /// All parameters in one call: libtorch's fused kernel reads and writes each number once.
    fn adam(&self, grads: &[(usize, Tensor, Tensor)], config: &Adam) {
        if grads.is_empty() {
            return;
        }
        let [params, gradients, first] = self.lists(grads);
        let second: Vec<Tensor> = grads.iter().map(|(i, ..)| self.second[*i].shallow_clone()).collect();
        adam_(&params, &gradients, &first, &second, self.steps, config);
    }

    fn sgd(
        &self,
        grads: &[(usize, Tensor, Tensor)],
        rate: f64,
        [momentum, weight_decay]: [f64; 2],
        nesterov: bool,
    ) {
        let [params, mut gradients, velocities] = self.lists(grads);
        if weight_decay != 0.0 || nesterov {
            gradients = gradients.iter().map(Tensor::copy).collect(); // `.grad` stays
        }
        if weight_decay != 0.0 {
            add_(&gradients, &params, weight_decay);
        }
        if momentum != 0.0 {
            scale_(&velocities, &Tensor::from(momentum));
            add_(&velocities, &gradients, 1.0);
            if nesterov {
                add_(&gradients, &velocities, momentum);
            } else {
                gradients = velocities;
            }
        }
        add_(&params, &gradients, -rate);
    }

    /// Parameters, gradients and first moments.
    fn lists(&self, grads: &[(usize, Tensor, Tensor)]) -> [Vec<Tensor>; 3] {
        [
            grads.iter().map(|(_, p, _)| p.shallow_clone()).collect(),
            grads.iter().map(|(.., g)| g.shallow_clone()).collect(),
            grads.iter().map(|(i, ..)| self.first[*i].shallow_clone()).collect(),
        ]
    }
}

impl Persist for Moments {
    fn state(&self) -> State {
        let mut state = State::default();
        state.set_count("steps", self.steps);
        for (moment, tensors) in [("first", &self.first), ("second", &self.second)] {
            let named = self.names.iter().zip(tensors);
            state.tensors.extend(named.map(|(n, t)| (format!("{moment}/{n}"), t.copy())));
        }
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.steps = state.count("steps")?;
        for (moment, tensors) in [("first", &mut self.first), ("second", &mut self.second)] {
            for (name, t) in self.names.iter().zip(tensors) {
                state.restore(&format!("{moment}/{name}"), t)?;
            }
        }
        Ok(())
    }
}
