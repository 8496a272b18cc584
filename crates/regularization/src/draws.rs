//! Draws that can be made again within a step.

use heldout_core::stream;
use tch::{Device, Kind, Tensor};

/// Seeds for several evaluations within one step, themselves drawn from libtorch's generator: a function of the step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Draws(u64);

impl Draws {
    pub(crate) fn new() -> Self {
        Self(Tensor::randint(i64::MAX, [1], (Kind::Int64, Device::Cpu)).int64_value(&[0]) as u64)
    }

    /// Seeds the generator for the `number`th evaluation; twice the same, twice the same draws.
    pub(crate) fn seed(self, number: u64) {
        tch::manual_seed(stream(self.0, "evaluation", number, 0) as i64);
    }
}
