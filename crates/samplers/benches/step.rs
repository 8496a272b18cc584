//! What a sampler costs outside the network: steps with a network that costs nothing, beside a step of quickstart's UNet.
//!
//! `cargo bench -p heldout-samplers`; `python3 crates/samplers/benches/peer.py` runs it beside diffusers.
#![allow(missing_docs, reason = "a bench has no readers")]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use heldout_core::{Backbone, Cond, Denoiser, Input, NoiseStream, Preconditioned, Probe, Sampler};
use heldout_samplers::{Churn, Ddim, Ddpm, DpmSolver2m, DpmSolver2mSde, Heun, TimeGrid, UniPc, Variance};
use heldout_schedules::{NoiseScheduleConfig, Prediction};
use heldout_unet::{UNet, UNetConfig};
use std::hint::black_box;
use tch::{Device, Kind, Tensor, nn};

const STEPS: usize = 50;

/// A network that costs nothing.
#[derive(Debug)]
struct Free(Tensor);

impl Backbone for Free {
    fn forward(&self, _: Input<'_>, _: &mut dyn Probe) -> Tensor {
        self.0.shallow_clone()
    }
}

/// Noise that costs nothing: the peer's is not counted either.
#[derive(Debug)]
struct FreeNoise(Tensor);

impl NoiseStream for FreeNoise {
    fn draw(&mut self, _: &Tensor, _: u64) -> Tensor {
        self.0.shallow_clone()
    }
}

fn model(backbone: Box<dyn Backbone>) -> Preconditioned {
    let schedule = NoiseScheduleConfig::DDPM.build().expect("a schedule of ours");
    Preconditioned { backbone, parameterization: Box::new(Prediction::Epsilon), schedule }
}

fn steps(c: &mut Criterion) {
    let _guard = tch::no_grad_guard();
    for shape in [[1, 1, 16, 16], [64, 1, 16, 16], [4, 4, 64, 64]] {
        let mut group = c.benchmark_group(format!("{STEPS} steps {shape:?}"));
        group.sample_size(20);
        let x = Tensor::randn(shape, (Kind::Float, Device::Cpu));
        let free = model(Box::new(Free(x.randn_like())));
        let times = TimeGrid::default().times(free.schedule(), STEPS).expect("a grid of ours");
        let samplers: [(&str, &dyn Sampler); 6] = [
            ("ddim", &Ddim { eta: 0.0 }),
            ("ddpm", &Ddpm { variance: Variance::FixedSmall }),
            ("heun", &Heun { churn: Churn::NONE }),
            ("dpm_solver_2m", &DpmSolver2m),
            ("dpm_solver_2m_sde", &DpmSolver2mSde),
            ("unipc", &UniPc { order: 2 }),
        ];
        for (name, sampler) in samplers {
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    let mut noise = FreeNoise(x.shallow_clone());
                    let start = x.shallow_clone();
                    black_box(sampler.sample(&free, start, &times, &Cond::default(), &mut noise, &mut |_| ()))
                });
            });
        }
        if shape[1] == 1 {
            let vars = nn::VarStore::new(Device::Cpu);
            let config = UNetConfig {
                layers_per_block: 1,
                attention: vec![false, true],
                ..UNetConfig::new(1, &[32, 64])
            };
            let unet = UNet::new(&vars.root(), &config).expect("quickstart's");
            let level = Tensor::full([shape[0]], 500.0, (Kind::Float, Device::Cpu));
            let cond = Cond::default();
            group.bench_function("one pass of quickstart's UNet", |b| {
                b.iter(|| {
                    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
                    black_box(unet.forward(input, &mut ()))
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
