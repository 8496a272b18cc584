//! An adaptive solver of the probability-flow equation.

use crate::ode::{Tolerance, integrate};
use crate::probability_flow::{LEAST, level, slope};
use crate::walk::{Walk, finish, straight};
use heldout_core::{Cond, Denoiser, NoiseStream, Result, Sampler, Step, combine, like};
use tch::Tensor;

/// Dormand and Prince 1980, order 5 with an error estimate of order 4, every sample with a step size of its own, so that
/// a set is the same however it is split into batches.
///
/// In the angle `atan(sigma / alpha)`; the last stretch, below `sigma / alpha = 0.002`, is one straight step. The times are
/// visited exactly, so that two are enough, and more cost more evaluations.
#[derive(Debug, Clone, Copy)]
pub struct DormandPrince {
    /// Error allowed in a step, relative to the state.
    pub rtol: f64,
    /// Error allowed in a step, absolute.
    pub atol: f64,
}

impl Sampler for DormandPrince {
    fn sample(
        &self,
        denoiser: &dyn Denoiser,
        mut x: Tensor,
        times: &[f64],
        cond: &Cond,
        _: &mut dyn NoiseStream,
        watch: &mut dyn FnMut(Step<'_>),
    ) -> Result<Tensor> {
        let tolerance = Tolerance { rtol: self.rtol, atol: self.atol };
        tolerance.check()?;
        let mut walk = Walk::new(denoiser, &x, times, cond, watch)?;
        let angle = |(alpha, sigma): (f64, f64)| sigma.atan2(alpha);
        let norm = |(alpha, sigma): (f64, f64)| alpha.hypot(sigma);
        let last = walk.levels(&[-LEAST.ln()])?;
        for i in 0..walk.steps() {
            let (mut now, next) = (walk.grid.pair(i), walk.grid.pair(i + 1));
            let ends = (angle(now), angle(next).max(LEAST.atan()));
            let mut shown = false;
            if ends.0 > ends.1 {
                let y = integrate(&x / norm(now), ends, tolerance, &mut |y, at, rows| {
                    let (t, scale) = level(denoiser.schedule(), at);
                    let x = y * like(&scale, y);
                    let hat = denoiser.denoise(&x, &t, &cond.select(rows));
                    if !std::mem::replace(&mut shown, true) {
                        walk.show(i, &x, &hat);
                    }
                    slope(y, &hat, at)
                })?;
                if angle(next) >= LEAST.atan() {
                    x = y * norm(next);
                    continue;
                }
                now = last.pair(0);
                x = y * norm(now);
            }
            let hat = if shown { walk.denoise_inside(&last, 0, &x) } else { walk.denoise(i, &x) };
            let (kept, clean) = straight(now, next);
            x = combine([(kept, &x), (clean, &hat)]);
        }
        finish(x)
    }
}
