//! Noise added to an image by the cosine schedule, and taken away again.
use heldout_core::{NoiseSchedule, Parameterization, Result, like};
use heldout_schedules::{NoiseScheduleConfig, Prediction};
use tch::{Device, Kind, Tensor};

fn main() -> Result<()> {
    let schedule = NoiseScheduleConfig::Cosine { steps: 1000 }.build()?;
    let x_start = Tensor::rand([4, 1, 8, 8], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    let noise = x_start.randn_like();
    let m = schedule.marginal(&Tensor::full([4], 0.5, (Kind::Double, Device::Cpu)));
    let x_t = like(&m.alpha, &x_start) * &x_start + like(&m.sigma, &x_start) * &noise;

    let s = Prediction::V.scalings(&m);
    let (a, b) = s.target(&m); // what a perfect network would answer
    let raw = like(&a, &x_start) * &x_start + like(&b, &x_start) * &noise;
    let x_start_hat = like(&s.c_skip, &x_t) * &x_t + like(&s.c_out, &x_t) * raw;
    println!("largest error {:.1e}", (x_start_hat - x_start).abs().max().double_value(&[]));
    Ok(())
}
