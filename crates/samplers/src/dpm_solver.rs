//! DPM-Solver++: exponential integrators of order 2 in `lambda`, half the log SNR.

use crate::walk::{Walk, finish, straight};
use heldout_core::{Cond, Denoiser, NoiseStream, Result, Sampler, Step, combine};
use tch::Tensor;

/// DPM-Solver++(2M): order 2, one evaluation a step; Lu et al. 2022 (DPM-Solver++), Algorithm 2.
///
/// The first step, the one after pure noise, and a last step onto clean data are of order 1.
#[derive(Debug, Clone, Copy)]
pub struct DpmSolver2m;

/// SDE-DPM-Solver++(2M): its stochastic sibling; Lu et al. 2022 (DPM-Solver++), section 5 and appendix, midpoint form.
#[derive(Debug, Clone, Copy)]
pub struct DpmSolver2mSde;

/// DPM-Solver++(2S): order 2, two evaluations a step, the second half way in `lambda`; Lu et al. 2022 (DPM-Solver++),
/// Algorithm 1 with `r = 1/2`.
#[derive(Debug, Clone, Copy)]
pub struct DpmSolver2s;

/// `x_start_hat` of two steps, extended in a line to the middle of the next: the weights of the newer and the older.
///
/// `None` where `lambda` has no end.
fn extended(walk: &Walk<'_>, i: usize) -> Option<(f64, f64)> {
    let lambda = |i| walk.grid.half_log_snr(i);
    let before = if i == 0 { f64::NEG_INFINITY } else { lambda(i - 1) };
    let ratio = (lambda(i + 1) - lambda(i)) / (lambda(i) - before) / 2.0;
    (ratio.is_finite() && before.is_finite()).then_some((1.0 + ratio, -ratio))
}

/// Steps from the last two estimates. `weights` says, from one level to the next, how much of the state is kept, and how much
/// of the estimate and of fresh noise comes in.
fn multistep(
    mut walk: Walk<'_>,
    mut x: Tensor,
    noise: &mut dyn NoiseStream,
    weights: impl Fn((f64, f64), (f64, f64)) -> (f64, f64, f64),
) -> Result<Tensor> {
    let mut before: Option<Tensor> = None;
    for i in 0..walk.steps() {
        let hat = walk.denoise(i, &x);
        let (kept, clean, fresh) = weights(walk.grid.pair(i), walk.grid.pair(i + 1));
        let mean = match before.as_ref().zip(extended(&walk, i)) {
            Some((old, (a, b))) => combine([(kept, &x), (clean * a, &hat), (clean * b, old)]),
            None => combine([(kept, &x), (clean, &hat)]),
        };
        x = if fresh > 0.0 { combine([(1.0, &mean), (fresh, &noise.draw(&x, i as u64))]) } else { mean };
        before = Some(hat);
    }
    finish(x)
}

impl Sampler for DpmSolver2m {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        times: &[f64],
        cond: &Cond,
        noise: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        let walk = Walk::new(denoiser, &x, times, cond, watch)?;
        multistep(walk, x, noise, |now, next| {
            let (kept, clean) = straight(now, next);
            (kept, clean, 0.0)
        })
    }
}

impl Sampler for DpmSolver2mSde {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        x: Tensor,
        times: &[f64],
        cond: &Cond,
        noise: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        let walk = Walk::new(denoiser, &x, times, cond, watch)?;
        multistep(walk, x, noise, |(alpha, sigma), (next_alpha, next_sigma)| {
            let decay = alpha * next_sigma / (next_alpha * sigma); // exp(-h)
            let gone = 1.0 - decay * decay;
            (next_sigma / sigma * decay, next_alpha * gone, next_sigma * gone.max(0.0).sqrt())
        })
    }
}

impl Sampler for DpmSolver2s {
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
        let lambda = |i| walk.grid.half_log_snr(i);
        let middle: Vec<f64> = (0..walk.steps()).map(|i| (lambda(i) + lambda(i + 1)) / 2.0).collect();
        // Where there is no middle the step is of order 1 and the level is not used: any level will do.
        let usable: Vec<f64> = middle.iter().map(|l| if l.is_finite() { *l } else { 0.0 }).collect();
        let inside = walk.levels(&usable)?;
        for (i, middle) in middle.into_iter().enumerate() {
            let hat = walk.denoise(i, &x);
            let (now, next) = (walk.grid.pair(i), walk.grid.pair(i + 1));
            let (kept, clean) = straight(now, next);
            let hat = if middle.is_finite() {
                let (kept, clean) = straight(now, inside.pair(i));
                walk.denoise_inside(&inside, i, &combine([(kept, &x), (clean, &hat)]))
            } else {
                hat
            };
            x = combine([(kept, &x), (clean, &hat)]);
        }
        finish(x)
    }
}
