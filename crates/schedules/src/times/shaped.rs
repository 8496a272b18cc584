//! Draws from densities that papers found good: they change the objective, and claim no more.

use super::{FIRST, plain};
use heldout_core::{Clock, NoiseSchedule, Persist, TimeSampler, Times};
use std::f64::consts::FRAC_PI_2;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// `ln(sigma / alpha)` Gaussian; Karras et al. 2022, Table 1: mean -1.2, standard deviation 1.2.
///
/// Noise levels beyond the schedule's are moved to its ends.
#[derive(Debug)]
pub struct LogNormalSigma {
    /// Mean of `ln(sigma / alpha)`.
    pub mean: f64,
    /// Its standard deviation.
    pub std: f64,
    /// What says at which time a noise level is reached.
    pub schedule: Rc<dyn NoiseSchedule>,
}

impl Persist for LogNormalSigma {}

impl TimeSampler for LogNormalSigma {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let log_sigma = Tensor::randn([n], (Kind::Double, device)) * self.std + self.mean;
        plain(self.schedule.time_of(&(log_sigma * -2.0)).clamp(FIRST, 1.0))
    }
}

/// `ln(t / (1 - t))` Gaussian; Esser et al. 2024, Eq. 19: mean 0, standard deviation 1.
#[derive(Debug, Clone, Copy)]
pub struct LogitNormalTimes {
    /// Mean of the logit.
    pub mean: f64,
    /// Its standard deviation.
    pub std: f64,
}

impl Persist for LogitNormalTimes {}

impl TimeSampler for LogitNormalTimes {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let logit: Tensor = Tensor::randn([n], (Kind::Double, device)) * self.std + self.mean;
        plain(logit.sigmoid().clamp(FIRST, 1.0))
    }
}

/// More times in the middle, none at the ends left out; Esser et al. 2024, Eq. 20: scale 1.29.
#[derive(Debug, Clone, Copy)]
pub struct ModeTimes {
    /// From -1 (more at the ends) over 0 (uniform) to 1.75 (more in the middle).
    pub scale: f64,
}

impl Persist for ModeTimes {}

impl TimeSampler for ModeTimes {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let u = Tensor::rand([n], (Kind::Double, device));
        let bend = (&u * FRAC_PI_2).cos().square() - 1.0 + &u;
        plain((1.0f64 - u - bend * self.scale).clamp(FIRST, 1.0))
    }
}
