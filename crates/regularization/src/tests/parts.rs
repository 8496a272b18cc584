//! Small models and the context that penalties are built in.

use crate::{FrozenFeatures, PenaltyContext};
use heldout_core::{
    Backbone, Input, Marginal, Optimizer, Parameterization, Params, Persist, Preconditioned, Probe, Result,
    Scalings, Site, State,
};
use heldout_nn::Conv2d;
use heldout_testkit::TrigSchedule;
use tch::{Device, Kind, Tensor, nn};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Descent with momentum: the smallest optimiser with a state.
#[derive(Debug)]
struct Momentum(Vec<Tensor>);

impl Momentum {
    fn build(params: &Params) -> Result<Box<dyn Optimizer>> {
        Ok(Box::new(Self(params.tensors().map(|p| p.detach().zeros_like()).collect())))
    }
}

impl Persist for Momentum {
    fn state(&self) -> State {
        let tensors = self.0.iter().enumerate().map(|(i, v)| (i.to_string(), v.copy())).collect();
        State { tensors, ..State::default() }
    }
    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.0.iter_mut().enumerate().try_for_each(|(i, v)| state.restore(&i.to_string(), v))
    }
}

impl Optimizer for Momentum {
    fn step(&mut self, params: &Params, rate: f64) {
        tch::no_grad(|| {
            for (v, p) in self.0.iter_mut().zip(params.tensors()) {
                *v = &*v * 0.5 + p.grad();
                let _ = p.shallow_clone().g_sub_(&(&*v * rate));
            }
        });
    }
}

/// `build` with the context of a model of images of `shape`, held-out images, and the mean over space as frozen
/// features.
pub(super) fn with_context<T>(
    params: &Params,
    shape: [i64; 3],
    build: impl FnOnce(&PenaltyContext<'_>) -> T,
) -> T {
    let vars = nn::VarStore::new(Device::Cpu);
    let frozen = FrozenFeatures::new(1, |x| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>));
    tch::manual_seed(77);
    let [channels, height, width] = shape;
    let held_out = Tensor::rand([5, channels, height, width], F32) * 2.0 - 1.0;
    build(&PenaltyContext {
        params,
        vars: &vars.root(),
        shape,
        seed: 1,
        held_out: Some(&held_out),
        optimizer: &Momentum::build,
        frozen: &|_| Ok(frozen.clone()),
        clip: &|_| Ok(FrozenFeatures::new(3, |x| x.flatten(1, -1).narrow(1, 0, 3))),
        channels: &|_| Ok(4),
    })
}

/// Two heads of one hidden layer, as a nested UNet shows them.
#[derive(Debug)]
struct TwoHeads(Conv2d, [Conv2d; 2]);

impl Backbone for TwoHeads {
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let level = (input.noise_level * 1e-3).view([-1, 1, 1, 1]);
        let h = probe.at(Site::Mid, (self.0.forward(input.x) + level).silu());
        let _ = probe.at(Site::Head(1), self.1[0].forward(&h));
        probe.at(Site::Head(2), self.1[1].forward(&h))
    }
}

/// The network's output is the estimate.
#[derive(Debug)]
struct XPrediction;

impl Parameterization for XPrediction {
    fn scalings(&self, m: &Marginal) -> Scalings {
        let one = || m.alpha.ones_like();
        Scalings { c_skip: m.alpha.zeros_like(), c_out: one(), c_in: one(), c_noise: m.noise_label.copy() }
    }
}

pub(super) fn around(backbone: impl Backbone + 'static) -> Preconditioned {
    Preconditioned {
        backbone: Box::new(backbone),
        parameterization: Box::new(XPrediction),
        schedule: Box::new(TrigSchedule),
    }
}

pub(super) fn two_heads() -> (Params, Preconditioned) {
    tch::manual_seed(2);
    let vars = nn::VarStore::new(Device::Cpu);
    let conv = |name, from, to| Conv2d::new(&(vars.root() / name), from, to, 3, 1);
    let net = TwoHeads(conv("first", 1, 4), [conv("one", 4, 1), conv("two", 4, 2)]);
    (Params::of(&vars), around(net))
}

/// `x_start_hat = M x_t`.
#[derive(Debug)]
pub(super) struct Map(pub(super) Tensor);

impl Backbone for Map {
    fn forward(&self, input: Input<'_>, _: &mut dyn Probe) -> Tensor {
        input.x.flatten(1, -1).matmul(&self.0.tr()).view_as(input.x)
    }
}
