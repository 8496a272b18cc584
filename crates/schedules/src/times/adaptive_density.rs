//! A density over noise levels that follows the loss.

use super::{host, pick};
use crate::levels::Levels;
use heldout_core::{Clock, Error, NoiseSchedule, Persist, Result, State, TimeSampler, Times};
use tch::{Device, Tensor};

/// Times drawn in proportion to the running root mean square of the loss at their noise level, each loss divided by what
/// its level is drawn too often: [`LossSecondMoment`](super::LossSecondMoment) in continuous time.
///
/// The mean is that of uniform times on `[1e-5, 1]`.
#[derive(Debug)]
pub struct AdaptiveDensity {
    levels: Levels,
    uniform: f64,
}

impl AdaptiveDensity {
    /// `bins` of equal width in the log SNR of `schedule`; running means of decay `decay`; a share `uniform` of the draws
    /// stays uniform.
    pub fn new(schedule: &dyn NoiseSchedule, bins: usize, decay: f64, uniform: f64) -> Result<Self> {
        if !(uniform > 0.0 && uniform <= 1.0) {
            return Err(Error::config("uniform", format!("{uniform} is not in (0, 1]")));
        }
        Ok(Self { levels: Levels::new(schedule, bins, decay)?, uniform })
    }
}

impl Persist for AdaptiveDensity {
    fn state(&self) -> State {
        self.levels.state()
    }

    fn load_state(&mut self, state: State) -> Result<()> {
        self.levels.load_state(state)
    }
}

impl TimeSampler for AdaptiveDensity {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let (shares, edges) = (self.levels.shares(self.uniform), self.levels.edges());
        let whole = edges[shares.len()] - edges[0];
        let (mut t, mut weight) = (Vec::new(), Vec::new());
        for (bin, part) in pick(&shares, n) {
            let width = edges[bin + 1] - edges[bin];
            t.push(edges[bin] + part * width);
            weight.push(width / whole / shares[bin]);
        }
        let tensor = |x: &[f64]| Tensor::from_slice(x).to_device(device);
        Times { t: tensor(&t), weight: tensor(&weight) }
    }

    fn observe(&mut self, t: &Tensor, loss: &Tensor) {
        self.levels.observe(&host(t), &host(loss));
    }
}
