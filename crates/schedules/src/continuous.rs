//! Schedules in closed form.

use heldout_core::{Marginal, NoiseSchedule};
use std::f64::consts::FRAC_PI_2;
use tch::Tensor;

/// Steps of the scale on which networks of continuous variance-preserving schedules are told the time; Song et al. 2021
/// multiply by it.
const LABELS: f64 = 999.0;

/// Variance preserving with `beta(t)` linear in time; Song et al. 2021, Eq. 32 and 33: 0.1 to 20.
#[derive(Debug, Clone, Copy)]
pub struct VpLinear {
    /// `beta(0)`.
    pub beta_min: f64,
    /// `beta(1)`.
    pub beta_max: f64,
}

impl NoiseSchedule for VpLinear {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let rise = self.beta_max - self.beta_min;
        let log_alpha = (t.square() * (rise / 2.0) + t * self.beta_min) * -0.5;
        let d_alpha = log_alpha.exp() * (t * rise + self.beta_min) * -0.5;
        variance_preserving(&log_alpha, d_alpha, t * LABELS)
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        let decay = -log_snr.log_sigmoid();
        let rise = self.beta_max - self.beta_min;
        // The positive root of `rise t^2 / 2 + beta_min t = decay`, in the form that does not cancel.
        let root: Tensor = (&decay * (2.0 * rise) + self.beta_min * self.beta_min).sqrt();
        decay * 2.0 / (root + self.beta_min)
    }
}

/// From `ln alpha`, with `sigma` where it is known better than `1 - alpha^2` says.
pub(crate) fn variance_preserving_at(
    log_alpha: &Tensor,
    sigma: Tensor,
    d_alpha: Tensor,
    noise_label: Tensor,
) -> Marginal {
    let alpha = log_alpha.exp();
    Marginal { d_sigma: -(&d_alpha) * &alpha / &sigma, d_alpha, alpha, sigma, noise_label }
}

/// From `ln alpha`: `sigma^2 = 1 - alpha^2`.
pub(crate) fn variance_preserving(log_alpha: &Tensor, d_alpha: Tensor, noise_label: Tensor) -> Marginal {
    let sigma = (-(log_alpha * 2.0).expm1()).sqrt();
    variance_preserving_at(log_alpha, sigma, d_alpha, noise_label)
}

/// The squared cosine of Nichol and Dhariwal 2021, Eq. 17, without its steps: `alpha` proportional to
/// `cos(pi/2 (t + s) / (1 + s))`, 1 at `t = 0` and 0 at `t = 1`.
#[derive(Debug, Clone, Copy)]
pub struct VpCosine {
    /// The offset `s`, 0.008 in the paper.
    pub offset: f64,
}

impl NoiseSchedule for VpCosine {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let speed = FRAC_PI_2 / (1.0 + self.offset);
        let top = (speed * self.offset).cos();
        let angle: Tensor = (t + self.offset) * speed;
        let alpha = (angle.cos() / top).clamp(0.0, 1.0);
        // sin^2(a) - sin^2(b) = sin(a - b) sin(a + b): exact where alpha is close to 1.
        let square = (t * speed).sin() * ((t + 2.0 * self.offset) * speed).sin() / (top * top);
        let sigma = square.clamp(0.0, 1.0).sqrt();
        let d_alpha = angle.sin() * (-speed / top);
        Marginal { d_sigma: -(&d_alpha) * &alpha / &sigma, d_alpha, alpha, sigma, noise_label: t * LABELS }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        let speed = FRAC_PI_2 / (1.0 + self.offset);
        let (sin, cos) = ((speed * self.offset).sin(), (speed * self.offset).cos());
        // Of the angle: cos = alpha * top, and sin^2 = 1 - alpha^2 top^2 = sigma^2 top^2 + sin^2(offset).
        let alpha = (log_snr.log_sigmoid() * 0.5).exp() * cos;
        let sigma2 = log_snr.neg().sigmoid() * (cos * cos) + sin * sin;
        sigma2.sqrt().atan2(&alpha) / speed - self.offset
    }
}

/// Variance exploding, with `sigma` in equal ratios from `sigma_min` to `sigma_max`; Song et al. 2021, Eq. 30.
///
/// `t = 0` is not quite clean: it has `sigma_min`.
#[derive(Debug, Clone, Copy)]
pub struct Ve {
    /// Noise at `t = 0`.
    pub sigma_min: f64,
    /// Noise at `t = 1`.
    pub sigma_max: f64,
}

impl NoiseSchedule for Ve {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let ratio = (self.sigma_max / self.sigma_min).ln();
        let sigma = (t * ratio).exp() * self.sigma_min;
        let alpha = t.ones_like();
        Marginal { d_alpha: t.zeros_like(), d_sigma: &sigma * ratio, alpha, sigma, noise_label: t * LABELS }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (log_snr * -0.5 - self.sigma_min.ln()) / (self.sigma_max / self.sigma_min).ln()
    }
}

/// `sigma` proportional to time, `alpha` 1; Karras et al. 2022 (EDM), Table 1, with time scaled to `[0, 1]`.
#[derive(Debug, Clone, Copy)]
pub struct Edm {
    /// Noise at `t = 1`, 80 in the paper.
    pub sigma_max: f64,
}

impl NoiseSchedule for Edm {
    fn marginal(&self, t: &Tensor) -> Marginal {
        Marginal {
            alpha: t.ones_like(),
            sigma: t * self.sigma_max,
            d_alpha: t.zeros_like(),
            d_sigma: t.full_like(self.sigma_max),
            noise_label: t * LABELS,
        }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (log_snr * -0.5).exp() / self.sigma_max
    }
}

/// Straight lines from data to noise, `alpha = 1 - t`, `sigma = t`; Lipman et al. 2023, Eq. 22; Liu et al. 2023, Eq. 1.
#[derive(Debug, Clone, Copy)]
pub struct Flow;

impl NoiseSchedule for Flow {
    fn marginal(&self, t: &Tensor) -> Marginal {
        Marginal {
            alpha: 1.0f64 - t,
            sigma: t.copy(),
            d_alpha: -t.ones_like(),
            d_sigma: t.ones_like(),
            noise_label: t * 1000.0,
        }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (log_snr * -0.5).sigmoid()
    }
}

/// `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`: the generalised variance-preserving path; Ma et al. 2024 (SiT),
/// Table 1; Hoogeboom et al. 2023, Eq. 3.
#[derive(Debug, Clone, Copy)]
pub struct Trigonometric;

impl NoiseSchedule for Trigonometric {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let angle: Tensor = t * FRAC_PI_2;
        // sin of what is left is exact at t = 1, where cos is not.
        let (alpha, sigma) = ((FRAC_PI_2 - &angle).sin(), angle.sin());
        Marginal {
            d_alpha: &sigma * -FRAC_PI_2,
            d_sigma: &alpha * FRAC_PI_2,
            alpha,
            sigma,
            noise_label: t * LABELS,
        }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (log_snr * -0.5).exp().atan() / FRAC_PI_2
    }
}
