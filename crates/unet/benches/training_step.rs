//! A whole training step: loss, gradient, AdamW. `python3 crates/unet/benches/peer.py` runs it beside eager diffusers.
//!
//! Prints one line a size: name, median and range of a step in milliseconds, peak memory in MiB.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "jemalloc reads its settings from a symbol; a bench has no readers"
)]

use heldout_core::{Batch, Clock, Cond, NoiseDraw, NoiseSource, Params, Preconditioned, Update};
use heldout_schedules::{GridTimes, LossWeighting, NoiseScheduleConfig, Prediction};
use heldout_train::{Backprop, DenoisingObjective, NonFinite, Optimizer, OptimizerConfig, OptimizerStep};
use heldout_unet::{UNet, UNetConfig};
use std::rc::Rc;
use std::time::Instant;
use tch::{Device, Kind, Tensor, nn};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Those of the binary `heldout`.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 65] = b"dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,metadata_thp:auto\0";

#[derive(Debug)]
struct Plain;

impl NoiseSource for Plain {
    fn draw(&mut self, x_start: &Tensor, _: &Tensor, _: Clock) -> NoiseDraw {
        let noise = x_start.randn_like();
        NoiseDraw { applied: noise.shallow_clone(), target: noise }
    }
}

fn step(name: &str, channels: i64, side: i64, batch: i64, config: &UNetConfig, steps: usize) {
    let vars = nn::VarStore::new(Device::Cpu);
    let backbone = UNet::new(&vars.root(), config).expect("a config of ours");
    let schedule = NoiseScheduleConfig::Cosine { steps: 1000 };
    let model = Preconditioned {
        backbone: Box::new(backbone),
        parameterization: Box::new(Prediction::V),
        schedule: schedule.build().expect("a schedule of ours"),
    };
    let mut objective = DenoisingObjective {
        model: Rc::new(model),
        times: Box::new(GridTimes { steps: 1000 }),
        noise: Box::new(Plain),
        weighting: Box::new(LossWeighting::SnrPlusOne),
        penalties: Vec::new(),
    };
    let params = Params::of(&vars);
    let adam_w = OptimizerConfig::AdamW { betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.01 };
    let optimizer = Optimizer::new(adam_w, &params).expect("an optimiser of ours");
    let mut update = OptimizerStep::new(params, optimizer, Backprop, 1e-4, NonFinite::Stop);
    let x_start = Tensor::randn([batch, channels, side, side], (Kind::Float, Device::Cpu));
    let batch = Batch { x_start, cond: Cond::default() };
    let mut times: Vec<f64> = (0..steps as u64 + 3)
        .map(|step| {
            let start = Instant::now();
            update.update(&mut objective, &batch, Clock { step, total: 1000 }).expect("a step");
            start.elapsed().as_secs_f64() * 1e3
        })
        .skip(3)
        .collect();
    times.sort_by(f64::total_cmp);
    let peak = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak =
        peak.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    let (median, low, high) = (times[steps / 2], times[0], times[steps - 1]);
    println!("{name} {median:.2} {low:.2} {high:.2} {}", peak.unwrap_or(0) / 1024);
}

fn main() {
    let config = |channels, blocks: &[i64], layers, attention: &[bool]| UNetConfig {
        in_channels: channels,
        out_channels: channels,
        block_out_channels: blocks.to_vec(),
        layers_per_block: layers,
        attention: attention.to_vec(),
        mid_attention: true,
        attention_head_dim: 8,
        norm_num_groups: 8,
        norm_eps: 1e-5,
        dropout: 0.0,
    };
    step("quickstart", 1, 16, 16, &config(1, &[32, 64], 1, &[false, true]), 60);
    step("32x32", 3, 32, 16, &config(3, &[64, 128, 128], 2, &[false, true, false]), 8);
}
