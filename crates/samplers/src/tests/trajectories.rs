//! Every state of diffusers' schedulers: see `tests/golden/make.py`.

use super::Tape;
use crate::{
    Churn, Clamped, DiffusersScheduler, DpmSolver2s, Euler, GridEnds, Heun, Lms, SamplerConfig, TimeGrid,
};
use heldout_core::{Backbone, Cond, Denoiser, Input, NoiseSchedule, Preconditioned, Probe, Sampler, like};
use heldout_schedules::{Edm, Prediction, Trigonometric};
use heldout_testkit::{Golden, check_denoiser, close};
use serde::Deserialize;
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor};

#[derive(Deserialize)]
struct Case {
    config: String,
    steps: usize,
    eta: f64,
    time: f64,
    /// Training steps that the peer goes from and to, where they are no grid.
    pairs: Option<Vec<(i64, i64)>>,
}

/// The network of the golden run.
#[derive(Debug)]
struct Tanh {
    time: f64,
    learned: bool,
}

impl Backbone for Tanh {
    fn forward(&self, input: Input<'_>, _: &mut dyn Probe) -> Tensor {
        let time = (input.noise_level / 300.0).cos() * self.time;
        let raw = input.x.tanh() * 0.7 + time.view([-1, 1, 1, 1]);
        if !self.learned {
            return raw;
        }
        Tensor::cat(&[raw, (input.x * 0.5).tanh()], 1)
    }
}

/// Largest error, relative to the largest number of the state.
fn error(ours: &Tensor, theirs: &Tensor) -> f64 {
    ((ours - theirs).abs().max() / theirs.abs().max()).double_value(&[])
}

#[test]
fn states_are_those_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "trajectories");
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../tests/golden/trajectories.json")).unwrap();
    let mut worst: BTreeMap<String, (f64, usize)> = BTreeMap::new();
    for (number, case) in cases.iter().enumerate() {
        let mut scheduler =
            DiffusersScheduler::parse(&case.config).unwrap_or_else(|e| panic!("{e}: {}", case.config));
        if let SamplerConfig::Ddim { eta } = &mut scheduler.sampler {
            *eta = case.eta;
        }
        let schedule = scheduler.schedule.build().unwrap();
        let times = scheduler.grid.times(&schedule, case.steps).unwrap();
        let learned = case.config.contains("learned_range");
        let model = Preconditioned {
            backbone: Box::new(Tanh { time: case.time, learned }),
            parameterization: Box::new(scheduler.prediction),
            schedule,
        };
        let limit = scheduler.clip.unwrap_or(f64::INFINITY);
        let clamped = Clamped { inner: &model, limit };
        let model: &dyn Denoiser = if scheduler.clip.is_some() { &clamped } else { &model };
        let states = golden.get(&format!("{number}.states"));
        let noise = golden.section(&format!("{number}.noise")).pop();
        let noise = noise.map_or_else(|| states.zeros_like(), |(_, noise)| noise);
        let sampler = scheduler.sampler.build().unwrap();
        let ours = match &case.pairs {
            None => watched(sampler.as_ref(), model, &states.get(0), &times, noise),
            Some(pairs) => single_steps(sampler.as_ref(), model, &states, pairs),
        };
        assert_eq!(ours.size(), states.size(), "{}", case.config);
        let errors = (0..=case.steps as i64).map(|i| error(&ours.get(i), &states.get(i)));
        let largest = errors.fold(0.0, f64::max);
        if largest > 1e-5 {
            println!("{number}: {largest:.1e}, {} steps: {}", case.steps, case.config.replace('\n', " "));
        }
        let name = format!("{:?}", scheduler.sampler);
        let entry = worst.entry(name).or_insert((0.0, number));
        if largest > entry.0 {
            *entry = (largest, number);
        }
    }
    for (name, (largest, number)) in &worst {
        println!("{name}: {largest:.1e} in {}", cases[*number].config.replace('\n', " "));
    }
    let largest = worst.values().map(|w| w.0).fold(0.0, f64::max);
    assert!(largest < 1e-5, "{largest}");
}

/// Every state, the last one included.
fn watched(sampler: &dyn Sampler, model: &dyn Denoiser, x: &Tensor, times: &[f64], noise: Tensor) -> Tensor {
    let mut seen = Vec::new();
    let mut tape = Tape(noise);
    let end = sampler
        .sample(model, x.shallow_clone(), times, &Cond::default(), &mut tape, &mut |s| {
            seen.push(s.x_t.shallow_clone());
        })
        .unwrap();
    seen.push(end);
    Tensor::stack(&seen, 0).to_kind(Kind::Float)
}

/// The peer's steps one by one, each from the state that the peer had.
fn single_steps(
    sampler: &dyn Sampler,
    model: &dyn Denoiser,
    states: &Tensor,
    pairs: &[(i64, i64)],
) -> Tensor {
    let time = |step: i64| (step + 1).max(0) as f64 / 1000.0;
    let mut ours = vec![states.get(0)];
    for (i, (from, to)) in pairs.iter().enumerate() {
        let times = [time(*from), time(*to)];
        ours.push(super::run(sampler, model, &states.get(i as i64), &times));
    }
    Tensor::stack(&ours, 0)
}

#[test]
fn models_keep_the_laws_of_a_denoiser() {
    let predictions = [
        Prediction::Epsilon,
        Prediction::XStart,
        Prediction::V,
        Prediction::Velocity,
        Prediction::Edm { sigma_data: 0.5 },
    ];
    let x = Tensor::randn([5, 1, 2, 2], (Kind::Double, Device::Cpu));
    for prediction in predictions {
        let model = Preconditioned {
            backbone: Box::new(Tanh { time: 0.1, learned: true }),
            parameterization: Box::new(prediction),
            schedule: Box::new(Trigonometric),
        };
        check_denoiser(&model, &x, &Cond::default());
        check_denoiser(&Clamped { inner: &model, limit: 0.5 }, &x, &Cond::default());
    }
}

/// A denoiser in the coordinates of EDM, as in `make_k_diffusion.py`.
#[derive(Debug)]
struct TanhDenoiser(Edm);

impl Denoiser for TanhDenoiser {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let sigma = self.0.marginal(t).sigma;
        (x_t / like(&(sigma.square() + 1.0).sqrt(), x_t)).tanh() * 0.9
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        &self.0
    }
}

#[test]
fn ends_are_those_of_k_diffusion() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "k_diffusion");
    let d = TanhDenoiser(Edm { sigma_max: 80.0 });
    let grid = TimeGrid::Karras { rho: 7.0, ends: GridEnds::Sigma { min: 0.02, max: 20.0 } };
    let times = grid.times(d.schedule(), 12).unwrap();
    close(&d.schedule().marginal(&Tensor::from_slice(&times)).sigma, &golden.get("sigmas"), 1e-5); // theirs: f32
    let churn = Churn { amount: 8.0, sigma_min: 0.05, sigma_max: 10.0, noise: 1.003 };
    let samplers: [(&str, &dyn Sampler); 4] = [
        ("euler_churn", &Euler { churn }),
        ("heun_churn", &Heun { churn }),
        ("dpm_solver_2s", &DpmSolver2s),
        ("lms", &Lms { order: 4 }),
    ];
    for (name, sampler) in samplers {
        let x = golden.get(&format!("{name}.start"));
        let noise = golden.section(&format!("{name}.noise")).pop().map_or_else(|| x.zeros_like(), |n| n.1);
        let end = sampler.sample(&d, x, &times, &Cond::default(), &mut Tape(noise), &mut |_| ()).unwrap();
        close(&end, &golden.get(&format!("{name}.end")), 1e-6);
    }
}

/// Law of `to_json`: what is written is read as the same.
#[test]
fn configurations_come_back() {
    let cases: Vec<Case> =
        serde_json::from_str(include_str!("../../tests/golden/trajectories.json")).unwrap();
    for case in cases {
        let read = DiffusersScheduler::parse(&case.config).unwrap();
        let text = read.to_json().unwrap_or_else(|e| panic!("{e}: {}", case.config));
        assert_eq!(DiffusersScheduler::parse(&text).unwrap(), read);
    }
}
