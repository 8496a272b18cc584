//! The probability-flow equation in the angle `atan(sigma / alpha)`.
//!
//! With the state scaled to `y = cos x_start + sin noise` it reads `dy / d angle = (cos y - x_start_hat) / sin`: bounded from
//! pure noise to the least noise, on every schedule. Song et al. 2021, Eq. 13, in other coordinates.

use heldout_core::{NoiseSchedule, like};
use std::f64::consts::FRAC_PI_2;
use tch::Tensor;

/// Of `sigma / alpha`, where the equation ends and clean data are a straight step away: EDM's least noise level.
pub(crate) const LEAST: f64 = 0.002;

/// Time and scale of `x_t = scale y` at angles `[B]`.
pub(crate) fn level(schedule: &dyn NoiseSchedule, angle: &Tensor) -> (Tensor, Tensor) {
    let log_snr = angle.clamp(0.0, FRAC_PI_2).tan().log() * -2.0;
    let t = schedule.time_of(&log_snr).clamp(0.0, 1.0);
    let m = schedule.marginal(&t);
    (t, (m.alpha.square() + m.sigma.square()).sqrt())
}

/// `dy / d angle`.
pub(crate) fn slope(y: &Tensor, x_start_hat: &Tensor, angle: &Tensor) -> Tensor {
    (like(&angle.cos(), y) * y - x_start_hat) / like(&angle.sin(), y)
}
