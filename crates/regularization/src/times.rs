//! Techniques that change the noise level that is trained on.

mod curriculum;
mod jitter;
mod pace;

pub use curriculum::{Curriculum, CurriculumConfig, Order};
pub use jitter::{JitterConfig, LevelJitter};
pub use pace::{HeldOutLoss, Pace};

use heldout_core::{NoiseSchedule, Result, TimeSampler};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// The earliest time that is trained on, as in `heldout-schedules`: at 0 there is no noise to predict.
const FIRST: f64 = 1e-5;

/// A technique of this folder as a recipe writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TimesTechnique {
    /// [`Curriculum`].
    Curriculum(CurriculumConfig),
    /// [`LevelJitter`].
    LevelJitter(JitterConfig),
}

impl TimesTechnique {
    /// Whether it can be honoured on this schedule, or which field cannot.
    pub fn check(&self, schedule: &dyn NoiseSchedule) -> Result<()> {
        match self {
            Self::Curriculum(config) => config.check(schedule),
            Self::LevelJitter(config) => config.check(),
        }
    }

    /// The technique around `inner`; `held_out` is what a curriculum of pace [`Pace::HeldOut`] looks at.
    pub fn wrap(
        &self,
        inner: Box<dyn TimeSampler>,
        schedule: &Rc<dyn NoiseSchedule>,
        held_out: Option<HeldOutLoss>,
    ) -> Result<Box<dyn TimeSampler>> {
        self.check(schedule.as_ref())?;
        Ok(match self {
            Self::Curriculum(config) => {
                Box::new(Curriculum::new(config, inner, schedule.as_ref(), held_out)?)
            }
            Self::LevelJitter(config) => {
                Box::new(LevelJitter { inner, std: config.std.clone(), schedule: schedule.clone() })
            }
        })
    }
}

/// The numbers of a vector, on the host.
fn host(x: &Tensor) -> Vec<f64> {
    let x = x.detach().to_device(tch::Device::Cpu).to_kind(Kind::Double).contiguous();
    let mut numbers = vec![0.0; x.numel()];
    let n = numbers.len();
    x.copy_data(&mut numbers, n);
    numbers
}
