//! One run of an autoencoder, or of a UNet with a ControlNet. `latents.py` runs it beside diffusers.
//!
//! - `latents autoencoder FOLDER step|encode|decode ROWS SIDE REPEATS`
//! - `latents large SIDE TILE`: one image decoded once by KL-f8, in tiles of `TILE` pixels; 0 for none
//! - `latents control UNET CONTROL_NET step|sample ROWS REPEATS`
//!
//! Prints median milliseconds and peak memory in MiB.
#![allow(unsafe_code, reason = "jemalloc reads its settings from a symbol")]

use heldout_benches::{F32, NoNoise, once, peak_mib, timed};
use heldout_core::{Adapted, Autoencoder, Backbone, Cond, Input, Params, Preconditioned, Sampler};
use heldout_samplers::{ClassifierFree, Ddim, GuidedChannels, TimeGrid};
use heldout_schedules::{NoiseScheduleConfig, Prediction};
use heldout_torch_ext::forget_grads;
use heldout_train::OptimizerConfig;
use heldout_vae::{AutoencoderKLConfig, AutoencoderKl, LatentModel, Regularizer, TileSize, Tiled};
use heldout_weights::{AutoencoderModel, ControlNetModel, Model, OpenOptions};
use tch::{Device, Reduction, Tensor, nn};

heldout_benches::allocator!();

/// Tokens of a text.
const TOKENS: i64 = 77;
/// Pixels of a hint for each place of the images.
const HINT_FACTOR: i64 = 8;
/// Steps of DDIM.
const STEPS: usize = 20;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |text: &str| text.parse::<i64>().expect("a number");
    tch::manual_seed(0);
    let ms = match args[..] {
        ["autoencoder", folder, mode, rows, side, repeats] => {
            autoencoder(folder, mode, [number(rows), number(side)], number(repeats) as usize)
        }
        ["large", side, tile] => large(number(side), number(tile)),
        ["control", unet, net, mode, rows, repeats] => {
            control([unet, net], mode, number(rows), number(repeats) as usize)
        }
        _ => panic!("autoencoder, large or control with what belongs to it"),
    };
    println!("{ms} {}", peak_mib());
}

/// `[C, H, W]` of the latents of images of 3 channels.
fn latents_of(network: &dyn LatentModel, side: i64) -> [i64; 3] {
    network.latent_shape([3, side, side]).expect("a side that it takes")
}

fn autoencoder(folder: &str, mode: &str, [rows, side]: [i64; 2], repeats: usize) -> f64 {
    let mut model =
        AutoencoderModel::open(folder, Device::Cpu, OpenOptions::default()).expect("an autoencoder");
    let x = Tensor::rand([rows, 3, side, side], F32) * 2.0 - 1.0;
    let network = model.network.clone();
    match mode {
        "encode" => tch::no_grad(|| timed(repeats, || drop(network.encode(&x)))),
        "decode" => {
            let [c, h, w] = latents_of(network.as_ref(), side);
            let z = Tensor::randn([rows, c, h, w], F32);
            tch::no_grad(|| timed(repeats, || drop(network.decode(&z))))
        }
        _ => {
            model.vars.unfreeze();
            let params = Params::of(&model.vars);
            let adam = OptimizerConfig::Adam { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 };
            let mut optimizer = adam.build(&params).expect("an optimiser of ours");
            timed(repeats, || {
                forget_grads(&params.handles());
                let found = network.reconstruct(&x);
                let Regularizer::Kl(kl) = found.regularizer else { panic!("an AutoencoderKL is needed") };
                let loss = found.x_hat.mse_loss(&x, Reduction::Mean) + kl.mean(kl.kind()) * 1e-6;
                loss.backward();
                optimizer.step(&params, 1e-4);
            })
        }
    }
}

/// Milliseconds of one decoding by KL-f8 with random weights, without a run before it, whose memory would stay.
fn large(side: i64, tile: i64) -> f64 {
    let config = AutoencoderKLConfig::kl_f8();
    let mut vars = nn::VarStore::new(Device::Cpu);
    let autoencoder = AutoencoderKl::new(&vars.root(), &config).expect("a configuration of ours");
    vars.freeze();
    let [c, h, w] = latents_of(&autoencoder, side);
    let z = Tensor::randn([1, c, h, w], F32);
    let decode = |autoencoder: &dyn Autoencoder| tch::no_grad(|| once(|| drop(autoencoder.decode(&z))));
    if tile == 0 {
        return decode(&autoencoder);
    }
    let size = TileSize { pixels: tile, latents: tile / config.factor(), ..config.tile_size() };
    decode(&Tiled::new(autoencoder, size).expect("tiles that meet"))
}

fn control([unet, net]: [&str; 2], mode: &str, rows: i64, repeats: usize) -> f64 {
    let mut base = Model::open(unet, Device::Cpu, OpenOptions::default()).expect("a UNet");
    let net = ControlNetModel::open(net, Device::Cpu, OpenOptions::default()).expect("a ControlNet");
    base.vars.freeze();
    let example = base.config.example(rows, None, TOKENS).expect("a shape");
    let x = Tensor::randn(&example.sample, F32);
    let context = example.conditions.iter().find(|(name, _)| *name == "encoder_hidden_states");
    let context = Tensor::randn(&context.expect("a UNet with a context").1, F32);
    let side = example.sample[2] * HINT_FACTOR;
    let hint = Tensor::rand([rows, 3, side, side], F32);
    let cond = Cond { context: Some(context), hint: Some(hint), ..Cond::default() };
    let params = Params::of(&net.vars);
    let adapted = Adapted { backbone: base.backbone, adapter: net.network };
    match mode {
        "sample" => sample(Box::new(adapted), &x, &cond, repeats),
        _ => {
            let level = Tensor::randint(1000, [rows], F32);
            let input = Input { x: &x, noise_level: &level, cond: &cond, train: true };
            let target = x.randn_like();
            let adam = OptimizerConfig::AdamW { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01 };
            let mut optimizer = adam.build(&params).expect("an optimiser of ours");
            timed(repeats, || {
                forget_grads(&params.handles());
                let out = adapted.forward(input, &mut ());
                out.mse_loss(&target, Reduction::Mean).backward();
                optimizer.step(&params, 1e-4);
            })
        }
    }
}

/// Milliseconds of one of the steps of DDIM under guidance, by a context of zeros.
fn sample(backbone: Box<dyn Backbone>, x: &Tensor, cond: &Cond, repeats: usize) -> f64 {
    let schedule = NoiseScheduleConfig::DDPM.build().expect("a schedule of ours");
    let inner = Preconditioned { backbone, parameterization: Box::new(Prediction::Epsilon), schedule };
    let times = TimeGrid::default().times(inner.schedule.as_ref(), STEPS).expect("a grid of ours");
    let null = Cond { context: cond.context.as_ref().map(Tensor::zeros_like), ..cond.shallow_clone() };
    let denoiser = ClassifierFree { inner, null, scale: 7.5, rescale: None, channels: GuidedChannels::All };
    let sampler = Ddim { eta: 0.0 };
    let run = || {
        let out = sampler.sample(&denoiser, x.shallow_clone(), &times, cond, &mut NoNoise, &mut |_| ());
        drop(out.expect("a sample"));
    };
    tch::no_grad(|| timed(repeats, run)) / STEPS as f64
}
