//! Linear multistep in `sigma / alpha`.

use crate::walk::{Levels, Walk, finish};
use heldout_core::{Cond, Denoiser, Error, NoiseStream, Result, Sampler, Step, combine};
use std::collections::VecDeque;
use tch::Tensor;

/// Adams-Bashforth on an uneven grid of `sigma / alpha`: the noise estimates of the last `order` steps, one evaluation a
/// step; Zhang and Chen 2023 (DEIS) and k-diffusion's "LMS".
#[derive(Debug, Clone, Copy)]
pub struct Lms {
    /// Steps that are remembered, 1 to 4; 4 in k-diffusion.
    pub order: usize,
}

impl Sampler for Lms {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        mut x: Tensor,
        times: &[f64],
        cond: &Cond,
        _: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        if !(1..=4).contains(&self.order) {
            return Err(Error::config("order", format!("{} is not between 1 and 4", self.order)));
        }
        let mut walk = Walk::new(denoiser, &x, times, cond, watch)?;
        let mut noises: VecDeque<Tensor> = VecDeque::new();
        for i in 0..walk.steps() {
            let hat = walk.denoise(i, &x);
            let ((alpha, sigma), (next_alpha, next_sigma)) = (walk.grid.pair(i), walk.grid.pair(i + 1));
            noises.push_front(combine([(1.0 / sigma, &x), (-alpha / sigma, &hat)]));
            noises.truncate(self.order);
            if alpha <= 0.0 {
                // From pure noise, where `sigma / alpha` has no value, the straight step; its estimate is no node.
                x = combine([(next_alpha, &hat), (next_sigma, &noises[0])]);
                noises.clear();
                continue;
            }
            let weight = |k| next_alpha * integral(&walk.grid, i, noises.len(), k);
            let noises = noises.iter().enumerate().map(|(k, noise)| (weight(k), noise));
            x = combine(std::iter::once((next_alpha / alpha, &x)).chain(noises));
        }
        finish(x)
    }
}

/// Integral from level `i` to the next of the `k`th Lagrange polynomial on the last `order` levels: two Gauss points are
/// exact for cubics.
fn integral(grid: &Levels<'_>, i: usize, order: usize, k: usize) -> f64 {
    let node = |k: usize| grid.ratio(i - k);
    let (from, to) = (grid.ratio(i), grid.ratio(i + 1));
    let basis = |s: f64| -> f64 {
        (0..order).filter(|j| *j != k).map(|j| (s - node(j)) / (node(k) - node(j))).product()
    };
    let (middle, half) = ((from + to) / 2.0, (to - from) / 2.0);
    let gauss = 1.0 / 3.0f64.sqrt();
    half * (basis(middle - half * gauss) + basis(middle + half * gauss))
}
