//! The paper's numbers, the laws of the image transformer and those of the one for clips.

mod clips;
mod image;
mod sizes;

use crate::{Dit, DitConfig};
use heldout_core::Input;
use tch::{Device, Kind, Tensor, nn};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Three blocks, five classes, no learned variance.
fn tiny() -> DitConfig {
    DitConfig {
        depth: 3,
        width: 32,
        heads: 4,
        num_classes: 5,
        out_channels: 4,
        sample_size: 8,
        ..DitConfig::small(2)
    }
}

/// As it starts.
fn fresh(config: &DitConfig) -> (nn::VarStore, Dit) {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let dit = Dit::new(&vars.root(), config).unwrap();
    (vars, dit)
}

/// Other numbers for all weights, so that no gate is closed.
fn randomise(vars: &nn::VarStore) {
    let mut named: Vec<_> = vars.variables().into_iter().collect();
    named.sort_by(|(a, _), (b, _)| a.cmp(b));
    tch::no_grad(|| {
        for (_, t) in named {
            let noise = t.randn_like() * 0.2;
            t.shallow_clone().copy_(&noise);
        }
    });
}

/// With gates open.
fn random(config: &DitConfig) -> (nn::VarStore, Dit) {
    let (vars, dit) = fresh(config);
    randomise(&vars);
    (vars, dit)
}

fn images(rows: i64, height: i64, width: i64) -> Tensor {
    tch::manual_seed(1);
    Tensor::randn([rows, 4, height, width], F32)
}

fn levels(rows: i64) -> Tensor {
    Tensor::linspace(10.0, 900.0, rows, F32)
}

fn input<'a>(x: &'a Tensor, level: &'a Tensor, cond: &'a heldout_core::Cond) -> Input<'a> {
    Input { x, noise_level: level, cond, train: false }
}
