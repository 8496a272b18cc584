//! A curriculum over noise levels.

use super::pace::{HeldOutLoss, Pace, Progress};
use super::{FIRST, host};
use heldout_core::{Clock, Error, NoiseSchedule, Persist, Result, State, TimeSampler, Times};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

/// Beyond this `|log SNR|` lie the outermost ranges alone, as in `heldout-schedules`.
const LIMIT: f64 = 12.0;
/// Rounds of draws before the rest is moved into the range; each is twice as long as the one before.
const ROUNDS: u32 = 6;
/// Held-out levels in each range.
const LEVELS: usize = 2;

/// From which end the levels are learned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// From little noise to much: the classical one.
    LowToHigh,
    /// From much noise, where denoising is easy, to little: Kim et al. 2025.
    #[default]
    HighToLow,
}

/// [`Curriculum`] as a recipe writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct CurriculumConfig {
    /// Ranges of log SNR, and so stages; 1 is no curriculum.
    pub stages: usize,
    /// Log SNR between the ranges, rising, one less than there are stages; empty for ranges of equal width.
    #[serde(default)]
    pub edges: Vec<f64>,
    /// From which end.
    #[serde(default)]
    pub order: Order,
    /// The order backwards: the control, since any narrowing of the levels changes training.
    #[serde(default)]
    pub anti: bool,
    /// When the next stage begins.
    #[serde(default)]
    pub pace: Pace,
}

impl CurriculumConfig {
    /// Whether it can be honoured on this schedule, or which field cannot.
    pub fn check(&self, schedule: &dyn NoiseSchedule) -> Result<()> {
        self.pace.check().map_err(|e| e.within("pace"))?;
        if !(1..=64).contains(&self.stages) {
            return Err(Error::config("stages", format!("{} is not between 1 and 64", self.stages)));
        }
        let fail = |reason: String| Err(Error::config("edges", reason));
        let (edges, [low, high]) = (&self.edges, ends(schedule));
        if edges.is_empty() {
            return Ok(());
        }
        if edges.len() + 1 != self.stages {
            return fail(format!(
                "{} of them between {} stages: one less is needed",
                edges.len(),
                self.stages
            ));
        }
        if let Some(edge) = edges.iter().find(|e| !(**e > low && **e < high)) {
            return fail(format!("{edge} is not between the schedule's ends, log SNR {low:.3} to {high:.3}"));
        }
        match edges.windows(2).find(|w| w[0] >= w[1]) {
            Some(w) => fail(format!("{} comes before {}: they rise", w[0], w[1])),
            None => Ok(()),
        }
    }

    /// Log SNR of all edges, the schedule's ends among them, rising.
    fn bounds(&self, schedule: &dyn NoiseSchedule) -> Vec<f64> {
        let [low, high] = ends(schedule);
        let equal = || (1..self.stages).map(|i| low + (high - low) * i as f64 / self.stages as f64).collect();
        let inner: Vec<f64> = if self.edges.is_empty() { equal() } else { self.edges.clone() };
        [vec![low], inner, vec![high]].concat()
    }
}

/// The lowest and the highest log SNR that counts.
fn ends(schedule: &dyn NoiseSchedule) -> [f64; 2] {
    let ends = host(&schedule.log_snr(&Tensor::from_slice(&[1.0, FIRST])));
    [ends[0].clamp(-LIMIT, LIMIT), ends[1].clamp(-LIMIT, LIMIT)]
}

/// Trains one range of noise levels at first and one more in every stage, until all are trained; Kim et al. 2025 ("Denoising
/// Task Difficulty-based Curriculum for Training Diffusion Models", arXiv 2403.10348).
///
/// Ranges accumulate: stage `i` of `K` draws `t` `[n]` from the first `i` ranges. A stage keeps those draws of `inner` that
/// lie in its range, with their weights; what is missing after a few rounds is moved there from `[1e-5, 1]` by a straight
/// line, so that a draw always ends. That leaves a uniform density uniform; of a discrete schedule such times lie between
/// grid points.
///
/// A held-out loss is looked at on two levels of every range of the stage, and what is drawn after a look is a function of
/// the seed and the step.
///
/// Law: with 1 stage, and in the last of several, it is `inner`, to the last bit. Law: the last step is of the last stage.
#[derive(Debug)]
pub struct Curriculum<T> {
    inner: T,
    ranges: Ranges,
    progress: Progress,
}

/// The noise levels of every stage.
#[derive(Debug)]
struct Ranges {
    /// Log SNR between the ranges and at the ends, rising.
    bounds: Vec<f64>,
    /// Times of the bounds, 1 at first and 0 at last.
    times: Vec<f64>,
    /// Whether the first range is that of the highest log SNR.
    from_data: bool,
}

impl<T> Curriculum<T> {
    /// Around `inner`; `held_out` is needed where the pace is [`Pace::HeldOut`], and is not asked by others.
    pub fn new(
        config: &CurriculumConfig,
        inner: T,
        schedule: &dyn NoiseSchedule,
        held_out: Option<HeldOutLoss>,
    ) -> Result<Self> {
        config.check(schedule)?;
        let bounds = config.bounds(schedule);
        let mut times = host(&schedule.time_of(&Tensor::from_slice(&bounds)));
        (times[0], times[config.stages]) = (1.0, 0.0); // the outermost ranges reach as far as the schedule does
        let progress = Progress::new(config.pace, config.stages, held_out)?;
        let from_data = (config.order == Order::LowToHigh) != config.anti;
        Ok(Self { inner, ranges: Ranges { bounds, times, from_data }, progress })
    }

    /// The stage of the last draw, from 0 on.
    pub fn stage(&self) -> usize {
        self.progress.stage
    }
}

impl Ranges {
    /// First and last bound of a stage's ranges.
    fn span(&self, stage: usize) -> [usize; 2] {
        let last = self.bounds.len() - 1;
        if self.from_data { [last - 1 - stage, last] } else { [0, stage + 1] }
    }

    /// First and last time of a stage.
    fn times(&self, stage: usize) -> [f64; 2] {
        let [first, last] = self.span(stage);
        [self.times[last], self.times[first]]
    }

    /// Held-out levels of a stage, rising.
    fn levels(&self, stage: usize) -> Vec<f64> {
        let [first, last] = self.span(stage);
        let of = |w: &[f64]| {
            let (low, width) = (w[0], w[1] - w[0]);
            (0..LEVELS).map(move |i| low + width * (i as f64 + 0.5) / LEVELS as f64).collect::<Vec<_>>()
        };
        self.bounds[first..=last].windows(2).flat_map(of).collect()
    }
}

impl<T: Persist> Persist for Curriculum<T> {
    fn state(&self) -> State {
        let mut state = self.progress.state();
        state.nest("inner", self.inner.state());
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.inner.load_state(state.unnest("inner"))?;
        self.progress.load_state(state)
    }
}

impl<T: TimeSampler> Curriculum<T> {
    /// `n` times from `low` up to `high`.
    fn within(&mut self, [low, high]: [f64; 2], n: i64, clock: Clock, device: Device) -> Times {
        let wanted = n as usize;
        let (mut t, mut weight) = (Vec::with_capacity(wanted), Vec::with_capacity(wanted));
        let mut outside = Vec::new();
        for round in 0..ROUNDS {
            let drawn = self.inner.sample(n << round, clock, device);
            for pair in host(&drawn.t).into_iter().zip(host(&drawn.weight)) {
                if t.len() == wanted {
                    break;
                } else if (low..=high).contains(&pair.0) {
                    t.push(pair.0);
                    weight.push(pair.1);
                } else if outside.len() < wanted {
                    outside.push(pair);
                }
            }
            if t.len() == wanted {
                break;
            }
        }
        for (far, of) in outside.into_iter().take(wanted - t.len()) {
            let share = ((far - FIRST) / (1.0 - FIRST)).clamp(0.0, 1.0);
            t.push(low.max(FIRST) + (high - low.max(FIRST)) * share);
            weight.push(of);
        }
        let tensor = |x: &[f64]| Tensor::from_slice(x).to_device(device);
        Times { t: tensor(&t), weight: tensor(&weight) }
    }
}

impl<T: TimeSampler> TimeSampler for Curriculum<T> {
    fn sample(&mut self, n: i64, clock: Clock, device: Device) -> Times {
        self.progress.advance(clock, |stage| self.ranges.levels(stage));
        if self.progress.is_full() {
            return self.inner.sample(n, clock, device);
        }
        self.within(self.ranges.times(self.progress.stage), n, clock, device)
    }

    fn observe(&mut self, t: &Tensor, loss: &Tensor) {
        self.progress.observe(loss);
        self.inner.observe(t, loss);
    }
}
