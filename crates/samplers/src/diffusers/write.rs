//! The way back to diffusers.

use super::DiffusersScheduler;
use crate::{Churn, GridEnds, SamplerConfig, TimeGrid, Variance};
use heldout_core::{Error, Result};
use heldout_schedules::{NoiseScheduleConfig, Prediction};
use serde_json::{Map, Value, json};

impl DiffusersScheduler {
    /// The text of a `scheduler_config.json` that says the same, or what diffusers has no words for.
    ///
    /// Law: [`DiffusersScheduler::parse`] gives `self` back.
    pub fn to_json(&self) -> Result<String> {
        let mut fields = Map::new();
        let mut set = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        set("_class_name", json!(self.class()?));
        set("_diffusers_version", json!("0.42.1"));
        match self.sampler {
            SamplerConfig::Ddpm { variance } => {
                let name = match variance {
                    Variance::FixedSmall => "fixed_small",
                    Variance::FixedLarge => "fixed_large",
                    Variance::Learned => "learned_range",
                };
                set("variance_type", json!(name));
                set("clip_sample", json!(self.clip.is_some()));
                set("clip_sample_range", json!(self.clip.unwrap_or(1.0)));
            }
            SamplerConfig::Ddim { .. } => set("clip_sample", json!(false)),
            SamplerConfig::DpmSolver2mSde => set("algorithm_type", json!("sde-dpmsolver++")),
            SamplerConfig::UniPc { order } => set("solver_order", json!(order)),
            SamplerConfig::Plms => {
                set("skip_prk_steps", json!(true));
                set("set_alpha_to_one", json!(true)); // unless its grid ends at the first step
            }
            _ => {}
        }
        set(
            "prediction_type",
            json!(match self.prediction {
                Prediction::Epsilon => "epsilon",
                Prediction::XStart => "sample",
                Prediction::V => "v_prediction",
                Prediction::Velocity => "flow_prediction",
                Prediction::Edm { .. } =>
                    return Err(Error::config("prediction", "edm: diffusers' schedulers have no such")),
            }),
        );
        schedule_fields(&self.schedule, &mut set)?;
        // Which words its grid takes depends on the class: the one is right that is read as this grid.
        for words in grid_words(&self.grid) {
            let mut candidate = fields.clone();
            candidate.extend(words);
            let text = serde_json::to_string_pretty(&Value::Object(candidate)).unwrap_or_default();
            if Self::parse(&text).is_ok_and(|read| read == *self) {
                return Ok(text + "\n");
            }
        }
        let what = if self.clip.is_some() { "grid or clip" } else { "grid" };
        let reason = format!("{} of diffusers has no fields for this one", self.class()?);
        Err(Error::config(what, reason))
    }

    fn class(&self) -> Result<&'static str> {
        let flow = self.schedule.steps().is_none();
        Ok(match self.sampler {
            SamplerConfig::Euler { churn: Churn::NONE } if flow => "FlowMatchEulerDiscreteScheduler",
            SamplerConfig::Euler { churn: Churn::NONE } => "EulerDiscreteScheduler",
            SamplerConfig::Heun { churn: Churn::NONE } => "HeunDiscreteScheduler",
            SamplerConfig::Ddpm { .. } => "DDPMScheduler",
            // Its eta is no field of the file but an argument of the pipeline.
            SamplerConfig::Ddim { eta: 0.0 } => "DDIMScheduler",
            SamplerConfig::EulerAncestral { eta: 1.0 } => "EulerAncestralDiscreteScheduler",
            SamplerConfig::DpmSolver2m | SamplerConfig::DpmSolver2mSde => "DPMSolverMultistepScheduler",
            SamplerConfig::UniPc { .. } => "UniPCMultistepScheduler",
            SamplerConfig::Lms { order: 4 } => "LMSDiscreteScheduler",
            SamplerConfig::Plms => "PNDMScheduler",
            other => {
                let reason = format!("{other:?} has no counterpart in diffusers");
                return Err(Error::config("sampler", reason));
            }
        })
    }
}

fn schedule_fields(schedule: &NoiseScheduleConfig, set: &mut impl FnMut(&str, Value)) -> Result<()> {
    let mut betas = |kind: &str, steps: &usize, ends: Option<(f64, f64)>| {
        set("beta_schedule", json!(kind));
        set("num_train_timesteps", json!(steps));
        if let Some((start, end)) = ends {
            set("beta_start", json!(start));
            set("beta_end", json!(end));
        }
    };
    match schedule {
        NoiseScheduleConfig::Linear { steps, beta_start, beta_end } => {
            betas("linear", steps, Some((*beta_start, *beta_end)));
        }
        NoiseScheduleConfig::ScaledLinear { steps, beta_start, beta_end } => {
            betas("scaled_linear", steps, Some((*beta_start, *beta_end)));
        }
        NoiseScheduleConfig::Sigmoid { steps, beta_start, beta_end } => {
            betas("sigmoid", steps, Some((*beta_start, *beta_end)));
        }
        NoiseScheduleConfig::Cosine { steps } => betas("squaredcos_cap_v2", steps, None),
        NoiseScheduleConfig::ZeroTerminalSnr { inner } => {
            set("rescale_betas_zero_snr", json!(true));
            schedule_fields(inner, set)?;
        }
        NoiseScheduleConfig::Flow => set("use_flow_sigmas", json!(true)),
        other => {
            let reason = format!("{other:?} has no counterpart in diffusers");
            return Err(Error::config("schedule", reason));
        }
    }
    Ok(())
}

/// Every way to say a grid.
fn grid_words(grid: &TimeGrid) -> Vec<Map<String, Value>> {
    let mut facts = Facts { shift: 1.0, ..Facts::default() };
    facts.gather(grid);
    let rules = [None, Some("use_karras_sigmas"), Some("use_exponential_sigmas"), Some("use_lu_lambdas")];
    let spacings = ["linspace", "leading", "trailing"];
    let train_steps =
        if facts.train_steps.is_empty() { vec![None] } else { facts.train_steps.iter().map(Some).collect() };
    let mut all = Vec::new();
    let ends = [false, true];
    let pairs = spacings.iter().flat_map(|s| rules.iter().map(move |r| (s, r)));
    let choices = pairs.flat_map(|p| ends.iter().map(move |e| (p, e)));
    for (((spacing, rule), to_first_step), train_steps) in
        choices.flat_map(|c| train_steps.iter().map(move |n| (c, n)))
    {
        let mut words = Map::new();
        let mut set = |name: &str, value: Value| drop(words.insert(name.to_owned(), value));
        set("timestep_spacing", json!(spacing));
        set("steps_offset", json!(facts.offset));
        if let Some(rule) = rule {
            set(rule, json!(true));
        }
        if let Some((min, max)) = facts.sigmas {
            set("sigma_min", json!(min));
            set("sigma_max", json!(max));
        }
        set("shift", json!(facts.shift));
        set("flow_shift", json!(facts.shift));
        if let Some(n) = train_steps {
            set("num_train_timesteps", json!(n));
        }
        if *to_first_step {
            set("final_sigmas_type", json!("sigma_min"));
            set("set_alpha_to_one", json!(false));
            set("lower_order_final", json!(false));
        }
        all.push(words);
    }
    all
}

/// The numbers in a grid.
#[derive(Default)]
struct Facts {
    offset: usize,
    sigmas: Option<(f64, f64)>,
    /// Of a schedule of straight lines, where only the grid knows them; the candidates.
    train_steps: Vec<usize>,
    shift: f64,
}

impl Facts {
    fn gather(&mut self, grid: &TimeGrid) {
        match grid {
            TimeGrid::Leading { offset, .. } => self.offset = *offset,
            TimeGrid::Karras { ends, .. } | TimeGrid::UniformLogSnr { ends } => match ends {
                GridEnds::Sigma { min, max } => self.sigmas = Some((*min, *max)),
                GridEnds::Of { grid } => self.gather(grid),
            },
            TimeGrid::Shifted { shift, inner } => {
                self.shift = *shift;
                self.gather(inner);
            }
            TimeGrid::WithoutLast { inner }
            | TimeGrid::StartingAt { inner, .. }
            | TimeGrid::EndingAt { inner, .. } => {
                self.gather(inner);
            }
            TimeGrid::Linear { first } if *first < 1.0 => {
                self.train_steps.push((1.0 / (1.0 - first)).round() as usize);
            }
            TimeGrid::LinearTo { last } => {
                let unshifted = last / (self.shift - (self.shift - 1.0) * last);
                self.train_steps.extend([*last, unshifted].map(|step| (1.0 / step).round() as usize));
            }
            _ => {}
        }
    }
}
