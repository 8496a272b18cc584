//! Noise schedules as recipes write them.

use crate::continuous::{Edm, Flow, Trigonometric, Ve, VpCosine, VpLinear};
use crate::{Discrete, Dynamic, LearnedSchedule, ScheduleVariance, Shifted};
use heldout_core::{DenoisingPenalty, Error, NoiseSchedule, Result, Scaled, TimeSampler};
use serde::{Deserialize, Serialize};
use std::f64::consts::FRAC_PI_2;
use std::rc::Rc;
use tch::nn;

/// A noise schedule as a recipe writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum NoiseScheduleConfig {
    /// Betas in equal steps from `beta_start` to `beta_end`; Ho et al. 2020, section 4: 1000, 1e-4, 0.02.
    Linear {
        /// Steps of the schedule.
        steps: usize,
        /// The first beta.
        beta_start: f64,
        /// The last beta.
        beta_end: f64,
    },
    /// Square roots of the betas in equal steps; Rombach et al. 2022: 1000, 0.00085, 0.012 (Stable Diffusion).
    ScaledLinear {
        /// Steps of the schedule.
        steps: usize,
        /// The first beta.
        beta_start: f64,
        /// The last beta.
        beta_end: f64,
    },
    /// `alpha_bar` follows a squared cosine, betas at most 0.999; Nichol and Dhariwal 2021, Eq. 17.
    Cosine {
        /// Steps of the schedule.
        steps: usize,
    },
    /// Betas on a sigmoid from -6 to 6, scaled from `beta_start` to `beta_end`; Xu et al. 2022 (GeoDiff).
    Sigmoid {
        /// Steps of the schedule.
        steps: usize,
        /// What the sigmoid rises from.
        beta_start: f64,
        /// What it rises to.
        beta_end: f64,
    },
    /// A discrete schedule made to end in pure noise; Lin et al. 2024, Algorithm 1.
    ZeroTerminalSnr {
        /// The discrete schedule.
        inner: Box<Self>,
    },
    /// `beta(t)` linear in continuous time; Song et al. 2021, Eq. 32: 0.1, 20.
    VpLinear {
        /// `beta(0)`.
        beta_min: f64,
        /// `beta(1)`.
        beta_max: f64,
    },
    /// The squared cosine in continuous time; Nichol and Dhariwal 2021, Eq. 17: 0.008.
    VpCosine {
        /// The offset `s`.
        offset: f64,
    },
    /// `sigma` in equal ratios; Song et al. 2021, Eq. 30: 0.01, 50.
    Ve {
        /// `sigma(0)`.
        sigma_min: f64,
        /// `sigma(1)`.
        sigma_max: f64,
    },
    /// `sigma = sigma_max t`; Karras et al. 2022: 80.
    Edm {
        /// `sigma(1)`.
        sigma_max: f64,
    },
    /// `alpha = 1 - t`, `sigma = t`; Lipman et al. 2023; Liu et al. 2023.
    Flow,
    /// `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`; Ma et al. 2024, Table 1.
    Trigonometric,
    /// Another schedule with `sigma / alpha` multiplied; Hoogeboom et al. 2023, Eq. 4; Esser et al. 2024, Eq. 23.
    Shifted {
        /// The factor.
        shift: f64,
        /// The other schedule.
        inner: Box<Self>,
    },
    /// [`LearnedSchedule`], trained with the model by [`ScheduleVariance`].
    Learned {
        /// `log SNR` at times 0 and 1: 13.3, -5.
        log_snr: [f64; 2],
        /// Numbers in the middle of its network.
        hidden: i64,
        /// Weight of the variance in the loss: 1e-3. Adam does not care how large it is, but a clipped norm does.
        variance_weight: f64,
    },
    /// [`Dynamic`], re-fitted to the losses seen.
    Dynamic {
        /// The noise levels.
        inner: Box<Self>,
        /// Pieces of constant pace.
        bins: usize,
        /// Of the running mean squares of the loss.
        decay: f64,
        /// Share of the time that follows the inner schedule.
        uniform: f64,
        /// Steps between two fits.
        every: u64,
    },
}

/// A schedule, and what trains it.
#[derive(Debug)]
pub struct BuiltSchedule {
    /// The forward process.
    pub schedule: Rc<dyn NoiseSchedule>,
    /// The draws of time that a [`Dynamic`] schedule is fitted by.
    pub times: Option<Box<dyn TimeSampler>>,
    /// What trains a [`LearnedSchedule`].
    pub penalty: Option<DenoisingPenalty>,
}

impl NoiseScheduleConfig {
    /// The DDPM schedule of the paper.
    pub const DDPM: Self = Self::Linear { steps: 1000, beta_start: 1e-4, beta_end: 0.02 };

    /// The schedule with what trains it, if it is one that is trained; its variables lie under `vars`.
    pub fn build_in(&self, vars: &nn::Path<'_>) -> Result<BuiltSchedule> {
        Ok(match *self {
            Self::Learned { log_snr, hidden, variance_weight: weight } => {
                if !(weight >= 0.0 && weight.is_finite()) {
                    let reason = format!("{weight} is negative or not finite");
                    return Err(Error::config("variance_weight", reason));
                }
                let schedule = Rc::new(LearnedSchedule::new(vars, log_snr, hidden)?);
                let inner = ScheduleVariance { schedule: schedule.clone() };
                BuiltSchedule { schedule, times: None, penalty: Some(Box::new(Scaled { inner, weight })) }
            }
            Self::Dynamic { ref inner, bins, decay, uniform, every } => {
                let inner = Rc::from(inner.build().map_err(|e| e.within("inner"))?);
                let schedule = Rc::new(Dynamic::new(inner, bins, vars.device())?);
                let times = schedule.times(decay, uniform, every)?;
                BuiltSchedule { schedule, times: Some(Box::new(times)), penalty: None }
            }
            _ => BuiltSchedule { schedule: Rc::from(self.build()?), times: None, penalty: None },
        })
    }

    /// The schedule, or which field cannot be honoured; one that is trained needs [`Self::build_in`].
    pub fn build(&self) -> Result<Box<dyn NoiseSchedule>> {
        let positive = |field: &str, x: f64| {
            let reason = || format!("{x} is not a positive number");
            if x > 0.0 && x.is_finite() { Ok(()) } else { Err(Error::config(field, reason())) }
        };
        let rising = |field: &str, low: f64, high: f64| {
            positive(field, low)?;
            let reason = || format!("{low} to {high} does not rise");
            if low < high && high.is_finite() { Ok(()) } else { Err(Error::config(field, reason())) }
        };
        Ok(match *self {
            Self::VpLinear { beta_min, beta_max } => {
                rising("beta_min", beta_min, beta_max)?;
                Box::new(VpLinear { beta_min, beta_max })
            }
            Self::VpCosine { offset } => {
                positive("offset", offset)?;
                Box::new(VpCosine { offset })
            }
            Self::Ve { sigma_min, sigma_max } => {
                rising("sigma_min", sigma_min, sigma_max)?;
                Box::new(Ve { sigma_min, sigma_max })
            }
            Self::Edm { sigma_max } => {
                positive("sigma_max", sigma_max)?;
                Box::new(Edm { sigma_max })
            }
            Self::Flow => Box::new(Flow),
            Self::Trigonometric => Box::new(Trigonometric),
            Self::Shifted { shift, ref inner } => {
                positive("shift", shift)?;
                Box::new(Shifted { inner: inner.build().map_err(|e| e.within("inner"))?, shift })
            }
            Self::Learned { .. } | Self::Dynamic { .. } => {
                return Err(Error::config("kind", "a schedule that is trained cannot lie within another"));
            }
            _ => Box::new(self.discrete()?),
        })
    }

    /// A discrete schedule with its table of betas, or why there is none.
    pub fn discrete(&self) -> Result<Discrete> {
        match *self {
            Self::Linear { steps, beta_start, beta_end } => {
                check_betas(steps, beta_start, beta_end)?;
                let at = line(steps, beta_start, beta_end);
                Discrete::from_betas((0..steps).map(at))
            }
            Self::ScaledLinear { steps, beta_start, beta_end } => {
                check_betas(steps, beta_start, beta_end)?;
                let at = line(steps, beta_start.sqrt(), beta_end.sqrt());
                Discrete::from_betas((0..steps).map(|i| at(i).powi(2)))
            }
            Self::Sigmoid { steps, beta_start, beta_end } => {
                check_betas(steps, beta_start, beta_end)?;
                let sigmoid = |i: usize| 1.0 / (1.0 + (6.0 - 12.0 * i as f64 / (steps - 1) as f64).exp());
                Discrete::from_betas((0..steps).map(|i| beta_start + (beta_end - beta_start) * sigmoid(i)))
            }
            Self::Cosine { steps } => {
                check_steps(steps)?;
                let alpha_bar =
                    |i: usize| ((i as f64 / steps as f64 + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
                Discrete::from_betas((0..steps).map(|i| (1.0 - alpha_bar(i + 1) / alpha_bar(i)).min(0.999)))
            }
            Self::ZeroTerminalSnr { ref inner } => {
                inner.discrete().map_err(|e| e.within("inner"))?.zero_terminal_snr()
            }
            _ => Err(Error::config("kind", "continuous: a discrete schedule is needed here")),
        }
    }

    /// The number of steps of a discrete schedule.
    pub fn steps(&self) -> Option<usize> {
        match self {
            Self::Linear { steps, .. }
            | Self::ScaledLinear { steps, .. }
            | Self::Sigmoid { steps, .. }
            | Self::Cosine { steps } => Some(*steps),
            Self::ZeroTerminalSnr { inner } | Self::Shifted { inner, .. } => inner.steps(),
            _ => None,
        }
    }
}

fn check_steps(steps: usize) -> Result<()> {
    if (2..=1_000_000).contains(&steps) {
        return Ok(());
    }
    Err(Error::config("steps", format!("{steps} is not between 2 and 1000000")))
}

fn check_betas(steps: usize, start: f64, end: f64) -> Result<()> {
    check_steps(steps)?;
    let inside = |b: f64| b > 0.0 && b < 1.0;
    if inside(start) && inside(end) {
        return Ok(());
    }
    Err(Error::config("beta_start", format!("{start} to {end}: betas lie strictly between 0 and 1")))
}

/// Equal steps.
fn line(steps: usize, start: f64, end: f64) -> impl Fn(usize) -> f64 {
    let slope = (end - start) / (steps - 1) as f64;
    move |i| start + slope * i as f64
}
