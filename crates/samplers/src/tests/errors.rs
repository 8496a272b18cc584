//! What a user may give wrong.

use super::{noise, start};
use crate::{
    Churn, Ddim, Ddpm, DiffusersScheduler, DormandPrince, DpmSolver2m, Euler, GridEnds, Heun, Lms,
    SamplerConfig, TimeGrid, UniPc, Variance,
};
use heldout_core::{Cond, Denoiser, NoiseSchedule, Sampler};
use heldout_schedules::{Flow, Trigonometric};
use heldout_testkit::{TrigSchedule, gaussian_denoiser};
use tch::{Device, Kind, Tensor};

#[track_caller]
fn says<T: std::fmt::Debug>(result: heldout_core::Result<T>, words: &[&str]) {
    let text = result.unwrap_err().to_string();
    for word in words {
        assert!(text.contains(word), "`{word}` is not in: {text}");
    }
}

fn try_run(
    sampler: &dyn Sampler,
    d: &dyn Denoiser,
    x: Tensor,
    times: &[f64],
    cond: &Cond,
) -> heldout_core::Result<Tensor> {
    sampler.sample(d, x, times, cond, &mut noise(0), &mut |_| ())
}

#[test]
fn bad_input_is_a_typed_error() {
    let d = gaussian_denoiser(TrigSchedule, 0.5);
    let all: [&dyn Sampler; 7] = [
        &Ddim { eta: 0.0 },
        &Ddpm { variance: Variance::FixedSmall },
        &Heun { churn: Churn::NONE },
        &DpmSolver2m,
        &UniPc { order: 2 },
        &Lms { order: 4 },
        &DormandPrince { rtol: 1e-3, atol: 1e-3 },
    ];
    for sampler in all {
        let times = |times: &[f64], words: &[&str]| {
            says(try_run(sampler, &d, start(3), times, &Cond::default()), words);
        };
        times(&[], &["times", "0"]);
        times(&[1.0], &["times", "1", "two"]);
        times(&[1.0, f64::NAN, 0.0], &["times", "NaN", "[0, 1]"]);
        times(&[1.2, 0.5], &["times", "1.2", "[0, 1]"]);
        times(&[0.5, -0.1], &["times", "-0.1", "[0, 1]"]);
        times(&[0.5, 0.7, 0.1], &["times", "0.7 follows 0.5"]);
        times(&[0.5, 0.5], &["times", "0.5 follows 0.5"]);
        let good = [1.0, 0.5, 0.0];
        says(try_run(sampler, &d, start(3) * f64::NAN, &good, &Cond::default()), &["x", "NaN"]);
        let none = Tensor::zeros([0, 1, 4, 4], (Kind::Float, Device::Cpu));
        says(try_run(sampler, &d, none, &good, &Cond::default()), &["x", "no sample"]);
        let label = Some(Tensor::zeros([2], (Kind::Int64, Device::Cpu)));
        let cond = Cond { label, ..Cond::default() };
        says(try_run(sampler, &d, start(3), &good, &cond), &["cond.label", "2 rows", "3 samples"]);
        says(try_run(sampler, &Spoiled, start(3), &good, &Cond::default()), &["x_start_hat", "NaN"]);
    }
    says(try_run(&UniPc { order: 4 }, &d, start(1), &[1.0, 0.0], &Cond::default()), &["order", "4"]);
    says(
        try_run(&Ddpm { variance: Variance::Learned }, &d, start(1), &[1.0, 0.0], &Cond::default()),
        &["variance"],
    );
    let churn = Churn { noise: -1.0, ..Churn::NONE };
    says(try_run(&Euler { churn }, &d, start(1), &[1.0, 0.0], &Cond::default()), &["churn.noise", "-1"]);
}

/// A model whose estimates are no numbers.
#[derive(Debug)]
struct Spoiled;

impl Denoiser for Spoiled {
    fn denoise(&self, x_t: &Tensor, _: &Tensor, _: &Cond) -> Tensor {
        x_t * f64::NAN
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        &Trigonometric
    }
}

#[test]
fn bad_settings_are_named() {
    says(SamplerConfig::Ddim { eta: 1.5 }.build(), &["eta", "1.5"]);
    says(SamplerConfig::UniPc { order: 0 }.build(), &["order", "0"]);
    says(SamplerConfig::Lms { order: 5 }.build(), &["order", "5"]);
    says(SamplerConfig::DormandPrince { rtol: 0.0, atol: 1.0 }.build(), &["rtol", "0"]);
    says(TimeGrid::default().times(&Flow, 0), &["steps", "0"]);
    says(TimeGrid::Linspace { train_steps: 10 }.times(&Flow, 11), &["steps", "11", "10"]);
    says(TimeGrid::Linear { first: 1.5 }.times(&Flow, 3), &["steps", "3"]);
    let short = TimeGrid::EndingAt { inner: Box::default(), last: 0.6 };
    assert_eq!(short.times(&Flow, 4).unwrap(), [1.0, 0.75, 0.6]);
    let ends =
        GridEnds::Of { grid: Box::new(TimeGrid::StartingAt { inner: Box::new(short.clone()), first: 0.9 }) };
    assert_eq!(TimeGrid::UniformLogSnr { ends }.times(&Flow, 4).unwrap().len(), 5);
    TimeGrid::WithoutLast { inner: Box::new(short) }.times(&Flow, 1).unwrap();
    let ends = GridEnds::Of { grid: Box::default() };
    says(TimeGrid::Karras { rho: 7.0, ends: ends.clone() }.times(&Flow, 3), &["ends", "inf"]);
    says(TimeGrid::Karras { rho: -1.0, ends }.times(&Flow, 3), &["rho", "-1"]);
    says(
        TimeGrid::UniformLogSnr { ends: GridEnds::Sigma { min: 2.0, max: 1.0 } }.times(&Flow, 3),
        &["ends", "2"],
    );
}

#[test]
fn fields_of_diffusers_that_cannot_be_honoured_are_named() {
    let parse = |class: &str, field: &str| {
        DiffusersScheduler::parse(&format!(
            "{{\"_class_name\": \"{class}\", \"_diffusers_version\": \"0.42.1\", {field}}}"
        ))
    };
    for (class, field, words) in [
        ("DDIMScheduler", "\"clip_sample\": true", &["clip_sample", "Clamped"][..]),
        ("DDPMScheduler", "\"thresholding\": true", &["thresholding", "true"]),
        ("DDPMScheduler", "\"variance_type\": \"learned\"", &["variance_type", "learned"]),
        ("EulerDiscreteScheduler", "\"use_beta_sigmas\": true", &["use_beta_sigmas"]),
        ("EulerDiscreteScheduler", "\"beta_schedule\": \"sigmoid\"", &["beta_schedule", "sigmoid"]),
        ("EulerDiscreteScheduler", "\"trained_betas\": [0.1]", &["trained_betas"]),
        ("EulerDiscreteScheduler", "\"timestep_spacing\": \"odd\"", &["timestep_spacing", "odd"]),
        ("EulerDiscreteScheduler", "\"num_train_timesteps\": \"many\"", &["num_train_timesteps", "many"]),
        ("EulerDiscreteScheduler", "\"presiction_type\": \"epsilon\"", &["presiction_type", "epsilon"]),
        ("DPMSolverMultistepScheduler", "\"solver_order\": 3", &["solver_order", "3", "2"]),
        ("DPMSolverMultistepScheduler", "\"lambda_min_clipped\": -5.1", &["lambda_min_clipped", "-5.1"]),
        ("DPMSolverMultistepScheduler", "\"prediction_type\": \"flow_prediction\"", &["prediction_type"]),
        ("UniPCMultistepScheduler", "\"solver_type\": \"bh1\"", &["solver_type", "bh1"]),
        ("FlowMatchEulerDiscreteScheduler", "\"use_dynamic_shifting\": true", &["use_dynamic_shifting"]),
        ("FlowMatchEulerDiscreteScheduler", "\"num_train_timesteps\": 0", &["num_train_timesteps", "0"]),
        ("PNDMScheduler", "\"steps_offset\": 1", &["skip_prk_steps", "true"]),
        (
            "PNDMScheduler",
            "\"skip_prk_steps\": true, \"prediction_type\": \"v_prediction\"",
            &["prediction_type", "epsilon"],
        ),
        (
            "PNDMScheduler",
            "\"skip_prk_steps\": true, \"timestep_spacing\": \"linspace\"",
            &["timestep_spacing", "leading"],
        ),
        ("IPNDMScheduler", "\"steps_offset\": 1", &["_class_name", "IPNDMScheduler"]),
    ] {
        says(parse(class, field), words);
    }
    says(DiffusersScheduler::parse("{}"), &["_class_name"]);
    says(DiffusersScheduler::parse("[1"), &["JSON"]);
    says(DiffusersScheduler::read(std::path::Path::new("nowhere.json")), &["nowhere.json"]);
    // What published files carry over from other schedulers is passed over, as diffusers does.
    let sdxl =
        "\"set_alpha_to_one\": false, \"skip_prk_steps\": true, \"clip_sample\": false, \"steps_offset\": 1";
    parse("EulerDiscreteScheduler", sdxl).unwrap();

    let base = parse("DDIMScheduler", "\"clip_sample\": false").unwrap();
    let odd = DiffusersScheduler { sampler: SamplerConfig::DpmSolver2s, ..base.clone() };
    says(odd.to_json(), &["sampler", "DpmSolver2s"]);
    let odd = DiffusersScheduler { grid: TimeGrid::Linear { first: 0.7 }, ..base.clone() };
    says(odd.to_json(), &["grid", "DDIMScheduler"]);
    let odd = DiffusersScheduler { schedule: heldout_schedules::NoiseScheduleConfig::Trigonometric, ..base };
    says(odd.to_json(), &["schedule", "Trigonometric"]);
}
