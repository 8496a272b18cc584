//! Plain Gaussian noise.

use heldout_core::{Clock, NoiseDraw, NoiseSource};
use tch::Tensor;

/// Unit Gaussian noise, applied and asked for alike; Ho et al. 2020, Algorithm 1. The baseline of this folder.
#[derive(Debug, Clone, Copy)]
pub struct Gaussian;

impl NoiseSource for Gaussian {
    fn draw(&mut self, x_start: &Tensor, _: &Tensor, _: Clock) -> NoiseDraw {
        let applied = x_start.randn_like();
        NoiseDraw { target: applied.shallow_clone(), applied }
    }
}
