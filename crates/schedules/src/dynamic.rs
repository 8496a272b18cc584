//! A schedule that is re-fitted during training.

use crate::levels::Levels;
use crate::times::{FIRST, host};
use heldout_core::{Clock, Error, Marginal, NoiseSchedule, Persist, Result, State, TimeSampler, Times};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// The noise levels of `inner`, run through at the pace that [`DynamicTimes`] fits: slowly where the loss is.
///
/// Time warping, Dieleman et al. 2022 (CDCD), section 3.3, with the root mean square of the weighted loss as the density.
/// Weights that do not know of it follow the pace; `per_log_snr` weights keep the objective, so that only its variance
/// falls. A network is told the label of `inner`, so that a noise level keeps its name while the pace moves.
#[derive(Debug)]
pub struct Dynamic {
    inner: Rc<dyn NoiseSchedule>,
    /// Times of `inner` at `t = 0, 1/bins, .., 1`.
    knots: Tensor,
}

impl Dynamic {
    /// At the pace of `inner` at first; the pace is constant in each of `bins` pieces.
    pub fn new(inner: Rc<dyn NoiseSchedule>, bins: usize, device: Device) -> Result<Self> {
        if !(2..=4096).contains(&bins) {
            return Err(Error::config("bins", format!("{bins} is not between 2 and 4096")));
        }
        Ok(Self { inner, knots: Tensor::linspace(0.0, 1.0, bins as i64 + 1, (Kind::Double, device)) })
    }

    /// Draws uniform times, and fits the pace to the losses seen, once in `every` steps.
    pub fn times(self: &Rc<Self>, decay: f64, uniform: f64, every: u64) -> Result<DynamicTimes> {
        if !(uniform > 0.0 && uniform <= 1.0) {
            return Err(Error::config("uniform", format!("{uniform} is not in (0, 1]")));
        }
        if every == 0 {
            return Err(Error::config("every", "0: at least 1 is needed"));
        }
        let levels = Levels::new(self.inner.as_ref(), self.bins() as usize, decay)?;
        Ok(DynamicTimes { schedule: self.clone(), levels, uniform, every })
    }

    fn bins(&self) -> i64 {
        self.knots.size()[0] - 1
    }

    /// Time of `inner`, and its derivative by time.
    fn warp(&self, t: &Tensor) -> (Tensor, Tensor) {
        let bins = self.bins();
        let place: Tensor = t.to_device(self.knots.device()) * bins as f64;
        let index = place.floor().clamp(0.0, (bins - 1) as f64).to_kind(Kind::Int64);
        let left = self.knots.index_select(0, &index);
        let rise = self.knots.index_select(0, &(&index + 1)) - &left;
        (left + (place - index) * &rise, rise * bins as f64)
    }

    /// Sets the pace from shares of the parts of the time of `inner` between `edges`.
    fn fit(&self, edges: &[f64], shares: &[f64]) {
        let bins = self.bins() as usize;
        let total: f64 = shares.iter().sum();
        let mut knots = vec![0.0];
        let (mut part, mut before) = (0, 0.0);
        for k in 1..bins {
            let aim = k as f64 / bins as f64 * total;
            while part + 1 < shares.len() && before + shares[part] < aim {
                before += shares[part];
                part += 1;
            }
            let inside = ((aim - before) / shares[part]).clamp(0.0, 1.0);
            knots.push(edges[part] + inside * (edges[part + 1] - edges[part]));
        }
        knots.push(1.0);
        tch::no_grad(|| self.knots.shallow_clone().copy_(&Tensor::from_slice(&knots)));
    }
}

impl NoiseSchedule for Dynamic {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let (inner, pace) = self.warp(t);
        let m = self.inner.marginal(&inner);
        Marginal { d_alpha: m.d_alpha * &pace, d_sigma: m.d_sigma * pace, ..m }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        let inner = self.inner.time_of(log_snr).to_device(self.knots.device());
        let bins = self.bins();
        let index =
            (inner.searchsorted(&self.knots, false, true, "right", None::<Tensor>) - 1).clamp(0, bins - 1);
        let left = self.knots.index_select(0, &index);
        let rise = self.knots.index_select(0, &(&index + 1)) - &left;
        (index + (inner - left) / rise) / bins as f64
    }
}

/// Uniform times of a [`Dynamic`] schedule, which it re-fits.
#[derive(Debug)]
pub struct DynamicTimes {
    schedule: Rc<Dynamic>,
    levels: Levels,
    uniform: f64,
    every: u64,
}

impl Persist for DynamicTimes {
    fn state(&self) -> State {
        let mut state = self.levels.state();
        state.values.insert("pace".to_owned(), serde_json::json!(host(&self.schedule.knots)));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let knots: Vec<f64> = crate::times::take(&mut state, "pace")?;
        if knots.len() as i64 != self.schedule.bins() + 1 {
            let reason = format!("of {} knots, needed of {}", knots.len(), self.schedule.bins() + 1);
            return Err(Error::config("pace", reason));
        }
        tch::no_grad(|| self.schedule.knots.shallow_clone().copy_(&Tensor::from_slice(&knots)));
        self.levels.load_state(state)
    }
}

impl TimeSampler for DynamicTimes {
    fn sample(&mut self, n: i64, clock: Clock, device: Device) -> Times {
        if clock.step > 0 && clock.step.is_multiple_of(self.every) {
            self.schedule.fit(self.levels.edges(), &self.levels.shares(self.uniform));
        }
        let t = Tensor::rand([n], (Kind::Double, device)) * (1.0 - FIRST) + FIRST;
        Times { weight: t.ones_like(), t }
    }

    fn observe(&mut self, t: &Tensor, loss: &Tensor) {
        self.levels.observe(&host(&self.schedule.warp(t).0), &host(loss));
    }
}
