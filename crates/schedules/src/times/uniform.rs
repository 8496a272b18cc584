//! Uniform draws.

use super::{FIRST, plain};
use heldout_core::{Clock, Persist, TimeSampler, Times};
use tch::{Device, Kind, Tensor};

/// Uniform on the grid `1/steps, 2/steps, .., 1` of a discrete schedule; Ho et al. 2020, Algorithm 1.
#[derive(Debug, Clone, Copy)]
pub struct GridTimes {
    /// Steps of the schedule.
    pub steps: usize,
}

impl Persist for GridTimes {}

impl TimeSampler for GridTimes {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let step = Tensor::randint(self.steps as i64, [n], (Kind::Int64, device));
        plain((step.to_kind(Kind::Double) + 1.0) / self.steps as f64)
    }
}

/// Uniform on `[1e-5, 1]`, for schedules in continuous time; Song et al. 2021, appendix C.
#[derive(Debug, Clone, Copy)]
pub struct UniformTimes;

impl Persist for UniformTimes {}

impl TimeSampler for UniformTimes {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        plain(Tensor::rand([n], (Kind::Double, device)) * (1.0 - FIRST) + FIRST)
    }
}

/// One uniform draw in each of `n` equal parts of `[1e-5, 1]`, all moved by one number: less variance over a batch, the
/// same mean; Kingma et al. 2021, appendix I.1.
#[derive(Debug, Clone, Copy)]
pub struct StratifiedTimes;

impl Persist for StratifiedTimes {}

impl TimeSampler for StratifiedTimes {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let places = Tensor::arange(n, (Kind::Double, device)) / n as f64;
        let u = (places + Tensor::rand([1], (Kind::Double, device))).fmod(1.0);
        plain(u * (1.0 - FIRST) + FIRST)
    }
}
