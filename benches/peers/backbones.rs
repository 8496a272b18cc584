//! One run of one network: `backbones FOLDER STEP|FORWARD|SAMPLE ROWS REPEATS`. `backbones.py` runs it beside diffusers.
//!
//! Prints median milliseconds, peak memory in MiB, multiply-adds of one forward pass of the batch, and the speed of a
//! matrix product in GFLOP/s.
#![allow(unsafe_code, reason = "jemalloc reads its settings from a symbol")]

use heldout_benches::{NoNoise, device, peak_mib, timed};
use heldout_core::{Backbone, Cond, Input, Params, Preconditioned, Sampler};
use heldout_samplers::{Ddim, TimeGrid};
use heldout_schedules::{NoiseScheduleConfig, Prediction};
use heldout_torch_ext::forget_grads;
use heldout_train::OptimizerConfig;
use heldout_weights::{Model, OpenOptions};
use tch::{Device, Kind, Tensor};

heldout_benches::allocator!();

/// GFLOP/s of products of squares of 2048.
fn product_speed(kind: (Kind, Device)) -> f64 {
    let side = 2048;
    let (a, b) = (Tensor::randn([side; 2], kind), Tensor::randn([side; 2], kind));
    let ms = timed(5, || drop(a.matmul(&b)));
    2.0 * (side as f64).powi(3) / ms / 1e6
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, mode, rows, repeats] = &args[..] else { panic!("FOLDER MODE ROWS REPEATS") };
    let (rows, repeats) = (rows.parse().expect("rows"), repeats.parse().expect("repeats"));
    let device = device();
    let f32 = (Kind::Float, device);
    let model = Model::open(folder, device, OpenOptions::default()).expect("a model folder");
    let example = model.config.example(rows, None, 77).expect("a shape");
    tch::manual_seed(0);
    let x = Tensor::randn(&example.sample, f32);
    let level = Tensor::randint(1000, [rows], f32);
    let label = (model.config.classes() > 0).then(|| Tensor::randint(10, [rows], (Kind::Int64, device)));
    let cond = Cond { label, ..Cond::default() };
    let batch = Input { x: &x, noise_level: &level, cond: &cond, train: true };
    let (out, cost) = tch::no_grad(|| heldout_nn::count(|| model.backbone.forward(batch, &mut ())));
    let ms = match mode.as_str() {
        "step" => step(&model, batch, &out.randn_like(), repeats),
        "forward" => {
            let batch = Input { train: false, ..batch };
            tch::no_grad(|| timed(repeats, || drop(model.backbone.forward(batch, &mut ()))))
        }
        _ => sample(model.backbone, &x, repeats),
    };
    let peak = peak_mib();
    println!("{ms} {peak} {} {}", cost.multiply_adds, product_speed(f32));
}

/// Forward, mean squared error, backward, AdamW.
fn step(model: &Model, batch: Input<'_>, target: &Tensor, repeats: usize) -> f64 {
    let params = Params::of(&model.vars);
    let adam_w = OptimizerConfig::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
    let mut optimizer = adam_w.build(&params).expect("an optimiser of ours");
    timed(repeats, || {
        forget_grads(&params.handles());
        let out = model.backbone.forward(batch, &mut ());
        out.mse_loss(target, tch::Reduction::Mean).backward();
        optimizer.step(&params, 1e-4);
    })
}

/// Milliseconds of one of fifty steps of DDIM.
fn sample(backbone: Box<dyn Backbone>, x: &Tensor, repeats: usize) -> f64 {
    const STEPS: usize = 50;
    let schedule = NoiseScheduleConfig::DDPM.build().expect("a schedule of ours");
    let denoiser = Preconditioned { backbone, parameterization: Box::new(Prediction::Epsilon), schedule };
    let times = TimeGrid::default().times(denoiser.schedule.as_ref(), STEPS).expect("a grid of ours");
    let run = || {
        let sampler = Ddim { eta: 0.0 };
        let out =
            sampler.sample(&denoiser, x.shallow_clone(), &times, &Cond::default(), &mut NoNoise, &mut |_| ());
        drop(out.expect("a sample"));
    };
    tch::no_grad(|| timed(repeats, run)) / STEPS as f64
}
