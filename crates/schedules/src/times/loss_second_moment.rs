//! Importance sampling of the steps of a discrete schedule.

use super::pick;
use heldout_core::{Clock, Error, Persist, Result, State, TimeSampler, Times};
use std::collections::VecDeque;
use tch::{Device, Tensor};

/// Steps drawn in proportion to the root mean square of their last losses, each loss divided by what its step is drawn
/// too often: the mean is that of uniform times, its variance smaller; Nichol and Dhariwal 2021, Eq. 18.
///
/// Uniform until every step has its whole history.
#[derive(Debug)]
pub struct LossSecondMoment {
    losses: Vec<VecDeque<f64>>,
    history: usize,
    uniform: f64,
}

impl LossSecondMoment {
    /// For `steps` steps, remembering `history` losses of each (10 in the paper); a share `uniform` (0.001) of the draws
    /// stays uniform, so that no step is given up.
    pub fn new(steps: usize, history: usize, uniform: f64) -> Result<Self> {
        if history == 0 {
            return Err(Error::config("history", "0: at least 1 is needed"));
        }
        if !(uniform > 0.0 && uniform <= 1.0) {
            return Err(Error::config("uniform", format!("{uniform} is not in (0, 1]")));
        }
        Ok(Self { losses: vec![VecDeque::new(); steps], history, uniform })
    }

    fn probabilities(&self) -> Vec<f64> {
        let n = self.losses.len() as f64;
        if self.losses.iter().any(|l| l.len() < self.history) {
            return vec![1.0 / n; self.losses.len()];
        }
        let rms = |l: &VecDeque<f64>| (l.iter().map(|x| x * x).sum::<f64>() / l.len() as f64).sqrt();
        let rms: Vec<f64> = self.losses.iter().map(rms).collect();
        let total: f64 = rms.iter().sum::<f64>().max(f64::MIN_POSITIVE);
        rms.iter().map(|r| (1.0 - self.uniform) * r / total + self.uniform / n).collect()
    }
}

impl Persist for LossSecondMoment {
    fn state(&self) -> State {
        let mut state = State::default();
        state.values.insert("losses".to_owned(), serde_json::json!(self.losses));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let losses: Vec<VecDeque<f64>> = super::take(&mut state, "losses")?;
        if losses.len() != self.losses.len() {
            let reason = format!("of {} steps, needed of {}", losses.len(), self.losses.len());
            return Err(Error::config("losses", reason));
        }
        self.losses = losses;
        Ok(())
    }
}

impl TimeSampler for LossSecondMoment {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let (p, steps) = (self.probabilities(), self.losses.len() as f64);
        let picked: Vec<usize> = pick(&p, n).into_iter().map(|(k, _)| k).collect();
        let values = |f: &dyn Fn(usize) -> f64| {
            Tensor::from_slice(&picked.iter().map(|&k| f(k)).collect::<Vec<_>>()).to_device(device)
        };
        Times { t: values(&|k| (k + 1) as f64 / steps), weight: values(&|k| 1.0 / (steps * p[k])) }
    }

    fn observe(&mut self, t: &Tensor, loss: &Tensor) {
        let steps = self.losses.len();
        for (t, loss) in super::host(t).into_iter().zip(super::host(loss)) {
            let kept = &mut self.losses[((t * steps as f64).round() as usize).clamp(1, steps) - 1];
            if kept.len() == self.history {
                kept.pop_front();
            }
            kept.push_back(loss);
        }
    }
}
