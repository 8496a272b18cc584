//! An adaptive solver of the probability-flow equation.

use crate::walk::{Walk, combine, finish, straight};
use heldout_core::{Cond, Denoiser, Error, NoiseStream, Result, Sampler, Step, like};
use std::f64::consts::FRAC_PI_2;
use tch::{Kind, Tensor};

/// Dormand and Prince 1980, order 5 with an error estimate of order 4, every sample with a step size of its own, so that
/// a set is the same however it is split into batches.
///
/// In the angle `atan(sigma / alpha)`, with the state scaled to `cos x_start + sin noise`: bounded from pure noise to
/// clean data on every schedule. The last stretch, below `sigma / alpha = 0.002`, is one straight step. The times are
/// visited exactly, so that two are enough, and more cost more evaluations.
#[derive(Debug, Clone, Copy)]
pub struct DormandPrince {
    /// Error allowed in a step, relative to the state.
    pub rtol: f64,
    /// Error allowed in a step, absolute.
    pub atol: f64,
}

/// Of `sigma / alpha`, where the last straight step begins: EDM's least noise level.
const LAST: f64 = 0.002;
/// Steps of a sample between two times, at most.
const MOST: usize = 100_000;

const NODES: [f64; 7] = [0.0, 1.0 / 5.0, 3.0 / 10.0, 4.0 / 5.0, 8.0 / 9.0, 1.0, 1.0];
const STAGES: [&[f64]; 7] = [
    &[],
    &[1.0 / 5.0],
    &[3.0 / 40.0, 9.0 / 40.0],
    &[44.0 / 45.0, -56.0 / 15.0, 32.0 / 9.0],
    &[19372.0 / 6561.0, -25360.0 / 2187.0, 64448.0 / 6561.0, -212.0 / 729.0],
    &[9017.0 / 3168.0, -355.0 / 33.0, 46732.0 / 5247.0, 49.0 / 176.0, -5103.0 / 18656.0],
    &[35.0 / 384.0, 0.0, 500.0 / 1113.0, 125.0 / 192.0, -2187.0 / 6784.0, 11.0 / 84.0],
];
/// The step of order 5 less that of order 4.
const ERROR: [f64; 7] =
    [71.0 / 57600.0, 0.0, -71.0 / 16695.0, 71.0 / 1920.0, -17253.0 / 339_200.0, 22.0 / 525.0, -1.0 / 40.0];

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
        for (field, tolerance) in [("rtol", self.rtol), ("atol", self.atol)] {
            if !(tolerance > 0.0 && tolerance.is_finite()) {
                return Err(Error::config(field, format!("{tolerance} is not a positive number")));
            }
        }
        let mut walk = Walk::new(denoiser, &x, times, cond, watch)?;
        let angle = |(alpha, sigma): (f64, f64)| sigma.atan2(alpha);
        let norm = |(alpha, sigma): (f64, f64)| alpha.hypot(sigma);
        for i in 0..walk.steps() {
            let (now, next) = (walk.grid.pair(i), walk.grid.pair(i + 1));
            let ends = (angle(now), angle(next).max(LAST.atan()));
            if ends.0 > ends.1 {
                let y =
                    Segment { walk: &mut walk, index: i, ends, tolerance: *self }.solve(&x / norm(now))?;
                if angle(next) >= LAST.atan() {
                    x = y * norm(next);
                    continue;
                }
                let level = walk.levels(&[-LAST.ln()])?;
                x = y * norm(level.pair(0));
                let hat = walk.denoise_inside(&level, 0, &x);
                let (kept, clean) = straight(level.pair(0), next);
                x = combine([(kept, &x), (clean, &hat)]);
            } else {
                let hat = walk.denoise(i, &x);
                let (kept, clean) = straight(now, next);
                x = combine([(kept, &x), (clean, &hat)]);
            }
        }
        finish(x)
    }
}

/// One stretch between two angles.
struct Segment<'a, 'b> {
    walk: &'a mut Walk<'b>,
    index: usize,
    ends: (f64, f64),
    tolerance: DormandPrince,
}

impl Segment<'_, '_> {
    /// `y` `[B, ..]` from the first angle to the second.
    fn solve(&mut self, y: Tensor) -> Result<Tensor> {
        let (start, end) = self.ends;
        let batch = y.size()[0];
        let result = y.copy();
        let mut rows = Tensor::arange(batch, (Kind::Int64, y.device()));
        let mut y = y;
        let mut angle = vec![start; batch as usize];
        let mut step = vec![(end - start) / 20.0; batch as usize];
        let hat = self.walk.denoise(self.index, &(&y * self.scale_at_start()));
        let mut slope = Self::slope_of(&y, &hat, &column(&angle, &y));
        for _ in 0..MOST {
            let h = column(&step, &y);
            let mut slopes = vec![slope.shallow_clone()];
            let mut reached = y.shallow_clone();
            for stage in 1..NODES.len() {
                let terms = STAGES[stage].iter().zip(&slopes).filter(|(c, _)| **c != 0.0);
                let sum = terms.map(|(c, k)| k * *c).reduce(|a, b| a + b).unwrap_or_else(|| y.zeros_like());
                reached = &y + like(&h, &y) * sum;
                let at: Vec<f64> = angle.iter().zip(&step).map(|(a, h)| a + NODES[stage] * h).collect();
                slopes.push(self.slope(&reached, &at, &rows));
            }
            let error = ERROR.iter().zip(&slopes).map(|(c, k)| k * *c).reduce(|a, b| a + b);
            let error = error.unwrap_or_else(|| y.zeros_like()) * like(&h, &y);
            let allowed = y.abs().maximum(&reached.abs()) * self.tolerance.rtol + self.tolerance.atol;
            let ratio = (error / allowed).square().flatten(1, -1).mean_dim(1i64, false, Kind::Double).sqrt();
            let ratio = Vec::<f64>::try_from(ratio)?;
            if ratio.iter().any(|r| !r.is_finite()) {
                return Err(Error::config(
                    "x_start_hat",
                    "holds NaN or infinite values: the model's estimates were",
                ));
            }
            let accepted: Vec<bool> = ratio.iter().map(|r| *r <= 1.0).collect();
            for (k, ratio) in ratio.iter().enumerate() {
                if accepted[k] {
                    angle[k] += step[k];
                }
                step[k] *= (0.9 * ratio.max(1e-10).powf(-0.2)).clamp(0.2, 5.0);
                step[k] = step[k].max(end - angle[k]); // both are negative: not beyond the end
            }
            let mask = like(&Tensor::from_slice(&accepted).to_device(y.device()), &y).to_kind(Kind::Bool);
            y = reached.where_self(&mask, &y);
            slope = slopes[NODES.len() - 1].where_self(&mask, &slope);
            // Samples that have arrived leave the batch.
            let left: Vec<i64> =
                (0..angle.len()).filter(|k| angle[*k] - end > 1e-14).map(|k| k as i64).collect();
            if left.len() < angle.len() {
                let _ = result.shallow_clone().index_copy_(0, &rows, &y);
                if left.is_empty() {
                    return Ok(result);
                }
                let keep = Tensor::from_slice(&left).to_device(y.device());
                (y, slope, rows) =
                    (y.index_select(0, &keep), slope.index_select(0, &keep), rows.index_select(0, &keep));
                angle = left.iter().map(|k| angle[*k as usize]).collect();
                step = left.iter().map(|k| step[*k as usize]).collect();
            }
        }
        let reason = format!("no end after {MOST} steps: allow more, or look for jumps in the model");
        Err(Error::config("rtol", reason))
    }

    fn scale_at_start(&self) -> f64 {
        let (alpha, sigma) = self.walk.grid.pair(self.index);
        alpha.hypot(sigma)
    }

    /// `dy / d angle` at an angle for each row; `rows` says which samples they are.
    fn slope(&self, y: &Tensor, angle: &[f64], rows: &Tensor) -> Tensor {
        let angle = column(angle, y);
        let schedule = self.walk.denoiser().schedule();
        let log_snr = (angle.clamp(0.0, FRAC_PI_2).tan().log()) * -2.0;
        let t = schedule.time_of(&log_snr).clamp(0.0, self.walk.time(self.index));
        let m = schedule.marginal(&t);
        let scale = (m.alpha.square() + m.sigma.square()).sqrt();
        let cond = self.walk.cond().select(rows);
        let hat = self.walk.denoiser().denoise(&(y * like(&scale, y)), &t, &cond);
        Self::slope_of(y, &hat, &angle)
    }

    /// With `y = cos x_start + sin noise`: `(cos y - x_start) / sin`.
    fn slope_of(y: &Tensor, hat: &Tensor, angle: &Tensor) -> Tensor {
        (like(&angle.cos(), y) * y - hat) / like(&angle.sin(), y)
    }
}

/// One number for each row, `[B]`, f64, where `y` is.
fn column(values: &[f64], y: &Tensor) -> Tensor {
    Tensor::from_slice(values).to_device(y.device())
}
