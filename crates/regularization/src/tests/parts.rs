//! Small models and the context that penalties are built in.

use crate::{FrozenFeatures, PenaltyContext};
use heldout_core::{
    Backbone, Input, Marginal, Parameterization, Params, Preconditioned, Probe, Scalings, Site,
};
use heldout_nn::Conv2d;
use heldout_testkit::TrigSchedule;
use tch::{Device, Tensor, nn};

/// `build` with the context of a model of images of `shape`, held-out images, and the mean over space as frozen
/// features.
pub(super) fn with_context<T>(params: &Params, build: impl FnOnce(&PenaltyContext<'_>) -> T) -> T {
    let vars = nn::VarStore::new(Device::Cpu);
    let frozen = FrozenFeatures::new(1, |x| x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>));
    build(&PenaltyContext {
        params,
        vars: &vars.root(),
        seed: 1,
        frozen: Some(&frozen),
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
