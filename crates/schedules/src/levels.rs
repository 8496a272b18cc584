//! The observed loss per noise level.

use crate::times::{FIRST, host, take};
use heldout_core::{Error, NoiseSchedule, Persist, Result, State};
use tch::{Kind, Tensor};

/// Running mean squares of the loss in bins of equal width in log SNR, between `exp(+-LIMIT)`.
#[derive(Debug)]
pub(crate) struct Levels {
    /// Times between the bins, rising from [`FIRST`] to 1; one more than there are bins.
    edges: Vec<f64>,
    mean_square: Vec<f64>,
    seen: Vec<u64>,
    decay: f64,
}

/// Beyond this `|log SNR|` lie the outermost bins alone.
const LIMIT: f64 = 12.0;
/// Losses of a bin before its mean square counts.
const ENOUGH: u64 = 4;

impl Levels {
    /// `decay` is that of the running means, by observation.
    pub(crate) fn new(schedule: &dyn NoiseSchedule, bins: usize, decay: f64) -> Result<Self> {
        if !(2..=4096).contains(&bins) {
            return Err(Error::config("bins", format!("{bins} is not between 2 and 4096")));
        }
        if !(0.0..1.0).contains(&decay) {
            return Err(Error::config("decay", format!("{decay} is not in [0, 1)")));
        }
        let ends = host(&schedule.log_snr(&Tensor::from_slice(&[FIRST, 1.0])));
        let log_snr = Tensor::linspace(
            ends[0].clamp(-LIMIT, LIMIT),
            ends[1].clamp(-LIMIT, LIMIT),
            bins as i64 + 1,
            (Kind::Double, tch::Device::Cpu),
        );
        let mut edges = host(&schedule.time_of(&log_snr));
        (edges[0], edges[bins]) = (FIRST, 1.0);
        Ok(Self { edges, mean_square: vec![0.0; bins], seen: vec![0; bins], decay })
    }

    pub(crate) fn edges(&self) -> &[f64] {
        &self.edges
    }

    /// Takes losses in.
    pub(crate) fn observe(&mut self, t: &[f64], loss: &[f64]) {
        for (t, loss) in t.iter().zip(loss).filter(|(_, l)| l.is_finite()) {
            let bin = self.edges.partition_point(|e| e < t).clamp(1, self.seen.len()) - 1;
            // A plain mean at first, so that the start is not remembered for ever.
            let keep = self.decay.min(self.seen[bin] as f64 / (self.seen[bin] + 1) as f64);
            self.mean_square[bin] = keep * self.mean_square[bin] + (1.0 - keep) * loss * loss;
            self.seen[bin] += 1;
        }
    }

    /// Shares of the bins: in proportion to width in time times root mean square, but for a share `uniform` of uniform
    /// times. Uniform until every bin has been seen.
    pub(crate) fn shares(&self, uniform: f64) -> Vec<f64> {
        let width: Vec<f64> = self.edges.windows(2).map(|w| (w[1] - w[0]) / (1.0 - FIRST)).collect();
        let rms: Vec<f64> = width.iter().zip(&self.mean_square).map(|(w, m)| w * m.sqrt()).collect();
        let total: f64 = rms.iter().sum();
        if self.seen.iter().any(|n| *n < ENOUGH) || total <= 0.0 {
            return width;
        }
        rms.iter().zip(&width).map(|(r, w)| (1.0 - uniform) * r / total + uniform * w).collect()
    }
}

impl Persist for Levels {
    fn state(&self) -> State {
        let mut state = State::default();
        state.values.insert("mean_square".to_owned(), serde_json::json!(self.mean_square));
        state.values.insert("seen".to_owned(), serde_json::json!(self.seen));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let mean_square: Vec<f64> = take(&mut state, "mean_square")?;
        let seen: Vec<u64> = take(&mut state, "seen")?;
        if mean_square.len() != self.seen.len() || seen.len() != self.seen.len() {
            let reason = format!("of {} bins, needed of {}", seen.len(), self.seen.len());
            return Err(Error::config("mean_square", reason));
        }
        (self.mean_square, self.seen) = (mean_square, seen);
        Ok(())
    }
}
