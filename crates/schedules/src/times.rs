//! Draws of the training noise level.

use heldout_core::{Clock, Persist, TimeSampler, Times};
use tch::{Device, Kind, Tensor};

/// Uniform on the grid `1/steps, 2/steps, .., 1` of a discrete schedule; Ho et al. 2020, Algorithm 1.
#[derive(Debug, Clone, Copy)]
pub struct UniformTimes {
    /// Steps of the schedule.
    pub steps: usize,
}

impl Persist for UniformTimes {}

impl TimeSampler for UniformTimes {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let step = Tensor::randint(self.steps as i64, [n], (Kind::Int64, device));
        let t = (step.to_kind(Kind::Double) + 1.0) / self.steps as f64;
        Times { weight: t.ones_like(), t }
    }
}
