//! The schedulers of diffusers: their `scheduler_config.json` in our terms, and back.

mod fields;
mod write;

use crate::{Churn, GridEnds, SamplerConfig, TimeGrid, Variance, starting_std};
use fields::Fields;
use heldout_core::{Error, NoiseSchedule, Result};
use heldout_schedules::{NoiseScheduleConfig, Prediction};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tch::{Device, Tensor};

/// What a `scheduler_config.json` of diffusers 0.42 says.
///
/// Covered: `DDPMScheduler`, `DDIMScheduler`, `EulerDiscreteScheduler`, `EulerAncestralDiscreteScheduler`,
/// `HeunDiscreteScheduler`, `LMSDiscreteScheduler`, `PNDMScheduler`, `DPMSolverMultistepScheduler`,
/// `UniPCMultistepScheduler`, `FlowMatchEulerDiscreteScheduler`. Sampling gives the states that they give, in our scaling (`x_t`, where some of them
/// carry `x_t / alpha`), with these differences, each a rounding or a stand-in of theirs: networks are told the time of a
/// level between two steps, not its rounded step; where they put `alpha^2 = 2^-24` for pure noise we have pure noise; `DDIMScheduler` with `linspace` steps to times that its next step does not start from, and we visit
/// the grid.
///
/// ```
/// use heldout_samplers::DiffusersScheduler;
///
/// let text = r#"{"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085,
///     "beta_end": 0.012, "timestep_spacing": "leading", "steps_offset": 1}"#;
/// let scheduler = DiffusersScheduler::parse(text)?;
/// let schedule = scheduler.schedule.build()?;
/// let times = scheduler.grid.times(&schedule, 20)?; // for `scheduler.sampler.build()?.sample(..)`
/// assert_eq!(DiffusersScheduler::parse(&scheduler.to_json()?)?, scheduler);
/// # assert_eq!(times.len(), 21);
/// # Ok::<(), heldout_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct DiffusersScheduler {
    /// The forward process.
    pub schedule: NoiseScheduleConfig,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The solver.
    pub sampler: SamplerConfig,
    /// The noise levels that it visits.
    pub grid: TimeGrid,
    /// Limit of `x_start_hat`, for [`Clamped`](crate::Clamped).
    pub clip: Option<f64>,
    /// Whether sampling starts from noise alone, `sigma * noise`, as those of their schedulers that carry `x_t / alpha` do
    /// with all but `leading` steps; otherwise from noise with the standard deviation of `x_t`.
    pub starts_from_noise: bool,
}

/// Schedulers that carry `x_t / alpha`.
const BY_SIGMA: [&str; 4] = [
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
];

impl DiffusersScheduler {
    /// From a file, or which field cannot be honoured.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text).map_err(|e| Error::file(path, e.to_string()))
    }

    /// Without a limit, from noise with the standard deviation of `x_t`.
    fn new(
        schedule: NoiseScheduleConfig,
        prediction: Prediction,
        sampler: SamplerConfig,
        grid: TimeGrid,
    ) -> Self {
        Self { schedule, prediction, sampler, grid, clip: None, starts_from_noise: false }
    }

    /// What unit noise is multiplied by where sampling starts, at time `t` of `schedule`, which is its own.
    pub fn starting_std(&self, schedule: &dyn NoiseSchedule, t: f64, device: Device) -> f64 {
        if !self.starts_from_noise {
            return starting_std(schedule, t, device);
        }
        schedule.marginal(&Tensor::from_slice(&[t]).to_device(device)).sigma.double_value(&[0])
    }

    /// From a file's text, or which field cannot be honoured.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut fields, class) = Fields::parse(text)?;
        let f = &mut fields;
        let by_sigma = BY_SIGMA.contains(&class.as_str());
        let starts_from_noise = by_sigma && f.text("timestep_spacing", "linspace") != "leading";
        let scheduler = match class.as_str() {
            "DDPMScheduler" => ddpm(f),
            "DDIMScheduler" => ddim(f),
            "EulerDiscreteScheduler" => euler(f),
            "EulerAncestralDiscreteScheduler" => euler_ancestral(f),
            "HeunDiscreteScheduler" => heun(f),
            "LMSDiscreteScheduler" => lms(f),
            "PNDMScheduler" => pndm(f),
            "DPMSolverMultistepScheduler" => dpm_solver(f),
            "UniPCMultistepScheduler" => unipc(f),
            "FlowMatchEulerDiscreteScheduler" => flow_match_euler(f),
            other => Err(Error::config("_class_name", format!("{other} is not covered"))),
        }?;
        let scheduler = Self { starts_from_noise, ..scheduler };
        fields.done(&class)?;
        scheduler.schedule.build()?;
        scheduler.sampler.build()?;
        Ok(scheduler)
    }
}

fn train_steps(f: &mut Fields) -> Result<usize> {
    let steps = f.take("num_train_timesteps", 1000)?;
    if steps > 0 { Ok(steps) } else { Err(Error::config("num_train_timesteps", "0: at least 1 is needed")) }
}

/// Steps and betas.
fn betas(
    f: &mut Fields,
    names: &[&str],
    (start, end): (f64, f64),
    rescales: bool,
) -> Result<(NoiseScheduleConfig, usize)> {
    f.null("trained_betas")?;
    let steps = train_steps(f)?;
    let (beta_start, beta_end) = (f.take("beta_start", start)?, f.take("beta_end", end)?);
    let kind: String = f.take("beta_schedule", "linear".to_owned())?;
    let schedule = match kind.as_str() {
        "linear" => NoiseScheduleConfig::Linear { steps, beta_start, beta_end },
        "scaled_linear" => NoiseScheduleConfig::ScaledLinear { steps, beta_start, beta_end },
        "squaredcos_cap_v2" => NoiseScheduleConfig::Cosine { steps },
        "sigmoid" => NoiseScheduleConfig::Sigmoid { steps, beta_start, beta_end },
        _ => NoiseScheduleConfig::Flow, // refused below
    };
    if !names.contains(&kind.as_str()) {
        return Err(Error::config(
            "beta_schedule",
            format!("{kind} cannot be honoured: only {} can", names.join(", ")),
        ));
    }
    let rescaled = rescales && f.take("rescale_betas_zero_snr", false)?;
    let schedule =
        if rescaled { NoiseScheduleConfig::ZeroTerminalSnr { inner: Box::new(schedule) } } else { schedule };
    Ok((schedule, steps))
}

const BETAS: &[&str] = &["linear", "scaled_linear", "squaredcos_cap_v2"];
const DDPM_BETAS: (f64, f64) = (1e-4, 0.02);

fn prediction(f: &mut Fields) -> Result<Prediction> {
    let name: String = f.take("prediction_type", "epsilon".to_owned())?;
    Ok(match name.as_str() {
        "epsilon" => Prediction::Epsilon,
        "sample" => Prediction::XStart,
        "v_prediction" => Prediction::V,
        "flow_prediction" => Prediction::Velocity,
        _ => {
            let reason = format!("{name} is not epsilon, sample, v_prediction or flow_prediction");
            return Err(Error::config("prediction_type", reason));
        }
    })
}

/// The training steps that are visited; `linspace` is rounded to steps or not.
fn spacing(f: &mut Fields, train_steps: usize, absent: &str, rounded: bool) -> Result<TimeGrid> {
    let name: String = f.take("timestep_spacing", absent.to_owned())?;
    let offset = f.take("steps_offset", 0)?;
    Ok(match (name.as_str(), rounded) {
        ("linspace", true) => TimeGrid::Linspace { train_steps },
        ("linspace", false) => TimeGrid::Interpolated { train_steps },
        ("leading", _) => TimeGrid::Leading { train_steps, offset },
        ("trailing", _) => TimeGrid::Trailing { train_steps },
        _ => {
            let reason = format!("{name} is not linspace, leading or trailing");
            return Err(Error::config("timestep_spacing", reason));
        }
    })
}

/// Levels by a rule on sigma between those of `range`, if the file asks for one; `inner` if not.
fn sigma_rule(f: &mut Fields, inner: TimeGrid, range: TimeGrid) -> Result<TimeGrid> {
    f.off("use_beta_sigmas")?;
    let karras = f.take::<Option<bool>>("use_karras_sigmas", None)?.unwrap_or(false);
    let exponential = f.take::<Option<bool>>("use_exponential_sigmas", None)?.unwrap_or(false);
    let (min, max): (Option<f64>, Option<f64>) = (f.take("sigma_min", None)?, f.take("sigma_max", None)?);
    let ends = match (min, max) {
        (Some(min), Some(max)) => GridEnds::Sigma { min, max },
        (None, None) => GridEnds::Of { grid: Box::new(range) },
        (Some(min), None) => {
            return Err(Error::config("sigma_min", format!("{min} without sigma_max: give both")));
        }
        (None, Some(max)) => {
            return Err(Error::config("sigma_max", format!("{max} without sigma_min: give both")));
        }
    };
    match (karras, exponential) {
        (true, true) => Err(Error::config("use_exponential_sigmas", "true together with use_karras_sigmas")),
        (true, false) => Ok(TimeGrid::Karras { rho: 7.0, ends }),
        (false, true) => Ok(TimeGrid::UniformLogSnr { ends }),
        (false, false) => Ok(inner),
    }
}

/// `final_sigmas_type`: clean data, or the first training step.
fn last_level(f: &mut Fields, grid: TimeGrid, train_steps: usize) -> Result<TimeGrid> {
    let name: String = f.take("final_sigmas_type", "zero".to_owned())?;
    match name.as_str() {
        "zero" => Ok(grid),
        "sigma_min" => Ok(ending_at_first_step(grid, train_steps)),
        _ => Err(Error::config("final_sigmas_type", format!("{name} is not zero or sigma_min"))),
    }
}

fn ending_at_first_step(grid: TimeGrid, train_steps: usize) -> TimeGrid {
    TimeGrid::EndingAt { inner: Box::new(grid), last: 1.0 / train_steps as f64 }
}

fn ddpm(f: &mut Fields) -> Result<DiffusersScheduler> {
    let (schedule, steps) =
        betas(f, &["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"], DDPM_BETAS, true)?;
    f.off("thresholding")?;
    f.ignore(&["dynamic_thresholding_ratio", "sample_max_value"]);
    let variance: String = f.take("variance_type", "fixed_small".to_owned())?;
    let variance = match variance.as_str() {
        "fixed_small" | "fixed_small_log" => Variance::FixedSmall,
        "fixed_large" => Variance::FixedLarge,
        "learned_range" => Variance::Learned,
        _ => {
            let reason = format!(
                "{variance} cannot be honoured: only fixed_small, fixed_small_log, fixed_large, learned_range can"
            );
            return Err(Error::config("variance_type", reason));
        }
    };
    let range = f.take("clip_sample_range", 1.0)?;
    let clip = f.take("clip_sample", true)?.then_some(range);
    let grid = spacing(f, steps, "leading", true)?;
    let sampler = SamplerConfig::Ddpm { variance };
    Ok(DiffusersScheduler { clip, ..DiffusersScheduler::new(schedule, prediction(f)?, sampler, grid) })
}

fn ddim(f: &mut Fields) -> Result<DiffusersScheduler> {
    let (schedule, steps) = betas(f, BETAS, DDPM_BETAS, true)?;
    f.off("thresholding")?;
    f.ignore(&["dynamic_thresholding_ratio", "sample_max_value", "clip_sample_range"]);
    if f.take("clip_sample", true)? {
        let reason = "true cannot be honoured: diffusers clips x_start and keeps the noise of the unclipped one; \
            set it to false, and use Clamped, whose noise is that of the clipped one";
        return Err(Error::config("clip_sample", reason));
    }
    let grid = spacing(f, steps, "leading", true)?;
    let grid = if f.take("set_alpha_to_one", true)? { grid } else { ending_at_first_step(grid, steps) };
    let sampler = SamplerConfig::Ddim { eta: 0.0 };
    Ok(DiffusersScheduler::new(schedule, prediction(f)?, sampler, grid))
}

fn euler(f: &mut Fields) -> Result<DiffusersScheduler> {
    let (schedule, steps) = betas(f, BETAS, DDPM_BETAS, true)?;
    f.only("interpolation_type", json!("linear"), &[json!("linear")])?;
    f.only("timestep_type", json!("discrete"), &[json!("discrete")])?;
    let levels = spacing(f, steps, "linspace", false)?;
    let grid = sigma_rule(f, levels.clone(), levels)?;
    let grid = last_level(f, grid, steps)?;
    let sampler = SamplerConfig::Euler { churn: Churn::NONE };
    Ok(DiffusersScheduler::new(schedule, prediction(f)?, sampler, grid))
}

fn euler_ancestral(f: &mut Fields) -> Result<DiffusersScheduler> {
    let (schedule, steps) = betas(f, BETAS, DDPM_BETAS, true)?;
    let grid = spacing(f, steps, "linspace", false)?;
    let sampler = SamplerConfig::EulerAncestral { eta: 1.0 };
    Ok(DiffusersScheduler::new(schedule, prediction(f)?, sampler, grid))
}

fn heun(f: &mut Fields) -> Result<DiffusersScheduler> {
    let (schedule, steps) = betas(f, BETAS, (0.00085, 0.012), false)?;
    f.off("clip_sample")?;
    f.ignore(&["clip_sample_range"]);
    let levels = spacing(f, steps, "linspace", false)?;
    let grid = sigma_rule(f, levels.clone(), levels)?;
    let sampler = SamplerConfig::Heun { churn: Churn::NONE };
    Ok(DiffusersScheduler::new(schedule, prediction(f)?, sampler, grid))
}

fn lms(f: &mut Fields) -> Result<DiffusersScheduler> {
    let (schedule, steps) = betas(f, BETAS, DDPM_BETAS, false)?;
    let levels = spacing(f, steps, "linspace", false)?;
    let grid = sigma_rule(f, levels.clone(), levels)?;
    let sampler = SamplerConfig::Lms { order: 4 };
    Ok(DiffusersScheduler::new(schedule, prediction(f)?, sampler, grid))
}

fn pndm(f: &mut Fields) -> Result<DiffusersScheduler> {
    let (schedule, steps) = betas(f, BETAS, DDPM_BETAS, false)?;
    f.only("skip_prk_steps", json!(false), &[json!(true)])?; // their default are the Runge-Kutta steps
    // Its last step is not as long as its grid says, but for these grids.
    let grid = match spacing(f, steps, "leading", true)? {
        TimeGrid::Linspace { .. } => {
            let reason = "linspace cannot be honoured: only leading, trailing can";
            return Err(Error::config("timestep_spacing", reason));
        }
        grid => grid,
    };
    let grid = if f.take("set_alpha_to_one", false)? { grid } else { ending_at_first_step(grid, steps) };
    let prediction = prediction(f)?;
    if prediction != Prediction::Epsilon {
        let reason = "PNDMScheduler mixes what the network says, and only epsilon is what we mix: set it to epsilon, or \
            take another scheduler";
        return Err(Error::config("prediction_type", reason));
    }
    Ok(DiffusersScheduler::new(schedule, prediction, SamplerConfig::Plms, grid))
}

/// Spacing of the multistep solvers, which make one step more and leave out the last but for `trailing`.
fn multistep_spacing(f: &mut Fields, steps: usize) -> Result<TimeGrid> {
    Ok(match spacing(f, steps, "linspace", true)? {
        trailing @ TimeGrid::Trailing { .. } => trailing,
        other => TimeGrid::WithoutLast { inner: Box::new(other) },
    })
}

/// What the multistep solvers share: schedule, prediction and grid; `flow` is their grid on straight lines, from the length of
/// a training step and the shift.
fn multistep(
    f: &mut Fields,
    flow: impl Fn(f64, f64) -> TimeGrid,
) -> Result<(NoiseScheduleConfig, Prediction, TimeGrid, usize)> {
    f.off("thresholding")?;
    f.off("use_dynamic_shifting")?;
    f.ignore(&["dynamic_thresholding_ratio", "sample_max_value", "time_shift_type"]);
    let (schedule, steps) = betas(f, BETAS, DDPM_BETAS, true)?;
    let levels = multistep_spacing(f, steps)?;
    let shift = f.take("flow_shift", 1.0)?;
    let lu = f.take("use_lu_lambdas", false)?;
    let whole = || TimeGrid::Linspace { train_steps: steps };
    let grid = sigma_rule(f, levels.clone(), whole())?;
    let prediction = prediction(f)?;
    if f.take("use_flow_sigmas", false)? {
        if grid != levels || lu {
            return Err(Error::config("use_flow_sigmas", "true together with another rule on sigma"));
        }
        let grid = flow(1.0 / steps as f64, shift);
        return Ok((NoiseScheduleConfig::Flow, prediction, grid, steps));
    }
    if prediction == Prediction::Velocity {
        return Err(Error::config("prediction_type", "flow_prediction needs use_flow_sigmas"));
    }
    let grid = match (lu, grid == levels) {
        (false, _) => grid,
        (true, true) => TimeGrid::UniformLogSnr { ends: GridEnds::Of { grid: Box::new(whole()) } },
        (true, false) => {
            return Err(Error::config("use_lu_lambdas", "true together with another rule on sigma"));
        }
    };
    Ok((schedule, prediction, grid, steps))
}

fn shifted(shift: f64, inner: TimeGrid) -> TimeGrid {
    if shift == 1.0 { inner } else { TimeGrid::Shifted { shift, inner: Box::new(inner) } }
}

fn dpm_solver(f: &mut Fields) -> Result<DiffusersScheduler> {
    f.only("solver_order", json!(2), &[json!(2)])?;
    f.only("solver_type", json!("midpoint"), &[json!("midpoint")])?;
    f.only("lambda_min_clipped", Value::Null, &[Value::Null])?; // minus infinity, which serde_json has as null
    f.ignore(&["euler_at_final", "variance_type"]); // a step onto clean data is Euler's; variance channels are split off
    let algorithm: String = f.take("algorithm_type", "dpmsolver++".to_owned())?;
    let sampler = match algorithm.as_str() {
        "dpmsolver++" => SamplerConfig::DpmSolver2m,
        "sde-dpmsolver++" => SamplerConfig::DpmSolver2mSde,
        _ => {
            let reason = format!("{algorithm} cannot be honoured: only dpmsolver++, sde-dpmsolver++ can");
            return Err(Error::config("algorithm_type", reason));
        }
    };
    let lower_order_final = f.take("lower_order_final", true)?;
    let (schedule, prediction, levels, steps) =
        multistep(f, |step, shift| shifted(shift, TimeGrid::Linear { first: 1.0 - step }))?;
    let grid = last_level(f, levels.clone(), steps)?;
    if grid != levels && lower_order_final {
        let reason = "true with final_sigmas_type sigma_min cannot be honoured: set it to false";
        return Err(Error::config("lower_order_final", reason));
    }
    Ok(DiffusersScheduler::new(schedule, prediction, sampler, grid))
}

fn unipc(f: &mut Fields) -> Result<DiffusersScheduler> {
    let sampler = SamplerConfig::UniPc { order: f.take("solver_order", 2)? };
    f.only("predict_x0", json!(true), &[json!(true)])?;
    f.only("solver_type", json!("bh2"), &[json!("bh2")])?;
    f.only("lower_order_final", json!(true), &[json!(true)])?;
    f.only("disable_corrector", json!([]), &[json!([])])?;
    f.only("final_sigmas_type", json!("zero"), &[json!("zero")])?;
    f.null("solver_p")?;
    f.null("shift_terminal")?;
    // Its logarithms need some signal left at the start.
    let flow = |last, shift| {
        let inner = TimeGrid::WithoutLast { inner: Box::new(TimeGrid::LinearTo { last }) };
        TimeGrid::StartingAt { inner: Box::new(shifted(shift, inner)), first: 1.0 - 1e-6 }
    };
    let (schedule, prediction, grid, _) = multistep(f, flow)?;
    Ok(DiffusersScheduler::new(schedule, prediction, sampler, grid))
}

fn flow_match_euler(f: &mut Fields) -> Result<DiffusersScheduler> {
    f.off("use_dynamic_shifting")?;
    f.off("invert_sigmas")?;
    f.off("stochastic_sampling")?;
    f.off("use_karras_sigmas")?;
    f.off("use_exponential_sigmas")?;
    f.off("use_beta_sigmas")?;
    f.null("shift_terminal")?;
    f.ignore(&["base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "time_shift_type"]);
    let steps = train_steps(f)?;
    let shift: f64 = f.take("shift", 1.0)?;
    // Its least sigma is shifted once when it is built and once more when the steps are set.
    let first = 1.0 / steps as f64;
    let last = shift * first / (1.0 + (shift - 1.0) * first);
    Ok(DiffusersScheduler::new(
        NoiseScheduleConfig::Flow,
        Prediction::Velocity,
        SamplerConfig::Euler { churn: Churn::NONE },
        shifted(shift, TimeGrid::LinearTo { last }),
    ))
}
