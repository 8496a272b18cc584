//! Pseudo linear multistep.

use crate::walk::{Walk, finish, straight};
use heldout_core::{Cond, Denoiser, NoiseStream, Result, Sampler, Step, combine};
use std::collections::VecDeque;
use tch::Tensor;

/// Adams-Bashforth with the weights of an even grid on the noise estimates of up to four steps, each step DDIM's; the first
/// step is one of Heun's. Liu et al. 2022 (PNDM), Eq. 11 to 13, as Stable Diffusion starts it: without the Runge-Kutta steps
/// of the paper. The published sampler of Stable Diffusion 1.
///
/// One evaluation a step, and one more in the first.
#[derive(Debug, Clone, Copy)]
pub struct Plms;

/// Weights of the newest estimates, newest first, by how many there are.
const WEIGHTS: [&[f64]; 4] = [
    &[1.0],
    &[3.0 / 2.0, -1.0 / 2.0],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

impl Sampler for Plms {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        mut x: Tensor,
        times: &[f64],
        cond: &Cond,
        _: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        let mut walk = Walk::new(denoiser, &x, times, cond, watch)?;
        let mut noises: VecDeque<Tensor> = VecDeque::new();
        for i in 0..walk.steps() {
            let hat = walk.denoise(i, &x);
            let (here, next) = (walk.grid.pair(i), walk.grid.pair(i + 1));
            let noise = |x: &Tensor, hat: &Tensor, (alpha, sigma): (f64, f64)| {
                combine([(1.0 / sigma, x), (-alpha / sigma, hat)])
            };
            noises.push_front(noise(&x, &hat, here));
            noises.truncate(WEIGHTS.len());
            let straight_step = || {
                let (kept, of_hat) = straight(here, next);
                combine([(kept, &x), (of_hat, &hat)])
            };
            if here.0 <= 0.0 {
                // From pure noise the estimate of the noise is the state: nothing to extrapolate.
                x = straight_step();
                noises.clear();
                continue;
            }
            let of_noise = next.1 - next.0 * here.1 / here.0;
            let first = i == 0 && next.1 > 0.0;
            let next_noise = first.then(|| {
                let predicted = straight_step();
                noise(&predicted, &walk.denoise_inside(&walk.grid, 1, &predicted), next)
            });
            let weighted: Vec<(f64, &Tensor)> = match &next_noise {
                Some(next_noise) => vec![(0.5, &noises[0]), (0.5, next_noise)],
                None => WEIGHTS[noises.len() - 1].iter().copied().zip(&noises).collect(),
            };
            let noises = weighted.into_iter().map(|(weight, noise)| (of_noise * weight, noise));
            x = combine(std::iter::once((next.0 / here.0, &x)).chain(noises));
        }
        finish(x)
    }
}
