//! Laws, textbook targets, and the peers' numbers.

use crate::{Discrete, LossWeighting, NoiseScheduleConfig, Prediction, UniformTimes};
use heldout_core::{Clock, NoiseSchedule, Parameterization, TimeSampler, Weighting};
use heldout_testkit::{
    Golden, TrigSchedule, check_parameterization, check_schedule, check_time_sampler, check_weighting, close,
};
use tch::{Device, Kind, Tensor};

const COSINE: NoiseScheduleConfig = NoiseScheduleConfig::Cosine { steps: 1000 };

fn schedules() -> Vec<Discrete> {
    let short = NoiseScheduleConfig::Cosine { steps: 7 };
    [NoiseScheduleConfig::DDPM, COSINE, short].iter().map(|c| c.build().unwrap()).collect()
}

fn times() -> Tensor {
    Tensor::linspace(0.02, 0.98, 49, (Kind::Double, Device::Cpu))
}

#[test]
fn schedules_keep_their_laws() {
    check_schedule(&TrigSchedule);
    schedules().iter().for_each(|s| check_schedule(s));
}

#[test]
fn predictions_and_weightings_keep_their_laws() {
    for s in schedules() {
        for p in [Prediction::Epsilon, Prediction::V] {
            check_parameterization(&p, &s);
        }
        for w in [LossWeighting::Snr, LossWeighting::SnrPlusOne, LossWeighting::MinSnr { gamma: 5.0 }] {
            check_weighting(&w, &s);
        }
    }
}

/// The four scalars give the textbook targets.
#[test]
fn targets_are_the_textbook_ones() {
    let m = COSINE.build().unwrap().marginal(&times());
    let (x, noise) = (times().randn_like(), times().randn_like());
    let target = |p: Prediction| {
        let (a, b) = p.scalings(&m).target(&m);
        a * &x + b * &noise
    };
    close(&target(Prediction::Epsilon), &noise, 1e-9);
    close(&target(Prediction::V), &(&m.alpha * &noise - &m.sigma * &x), 1e-9);
}

/// A weight in `x_start` space, times `c_out^2`, is the published weight of the prediction: no case per prediction.
#[test]
fn weights_are_the_published_ones() {
    let m = COSINE.build().unwrap().marginal(&times());
    let snr = (&m.alpha / &m.sigma).square();
    let plain = |w: LossWeighting, p: Prediction| w.weight(&m) * p.scalings(&m).c_out.square();
    let one = times().ones_like();
    close(&plain(LossWeighting::Snr, Prediction::Epsilon), &one, 1e-9);
    close(&plain(LossWeighting::SnrPlusOne, Prediction::V), &one, 1e-9);
    let min_snr = LossWeighting::MinSnr { gamma: 5.0 };
    close(&(plain(min_snr, Prediction::Epsilon) / (snr.clamp_max(5.0) / &snr)), &one, 1e-9);
    close(&(plain(min_snr, Prediction::V) / (snr.clamp_max(5.0) / (&snr + 1.0))), &one, 1e-9);
}

#[test]
fn alphas_cumprod_are_those_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "alphas_cumprod");
    for (name, config) in [("linear", NoiseScheduleConfig::DDPM), ("squaredcos_cap_v2", COSINE)] {
        let (ours, theirs) =
            (config.build().unwrap().alphas_cumprod(), golden.get(name).to_kind(Kind::Double));
        close(&(ours / theirs), &Tensor::ones([1000], (Kind::Double, Device::Cpu)), 1e-4); // theirs: a product in f32
    }
    let (ours, theirs) = (COSINE.build().unwrap().alphas_cumprod(), golden.get("squaredcos_cap_v2_f64"));
    close(&(ours / theirs), &Tensor::ones([1000], (Kind::Double, Device::Cpu)), 1e-9);
}

/// On the grid, the network is told the integer step and the marginal is the table's.
#[test]
fn grid_times_are_integer_steps() {
    let s = NoiseScheduleConfig::DDPM.build().unwrap();
    let t = Tensor::from_slice(&[0.001, 0.5, 1.0]);
    let m = s.marginal(&t);
    close(&m.noise_label, &Tensor::from_slice(&[0.0, 499.0, 999.0]), 1e-9);
    let table = s.alphas_cumprod().index_select(0, &Tensor::from_slice(&[0i64, 499, 999]));
    close(&m.alpha.square(), &table, 1e-12);
    close(&s.marginal(&Tensor::from_slice(&[0.0])).sigma, &Tensor::from_slice(&[0.0]), 0.0);
}

#[test]
fn uniform_times_cover_the_grid() {
    let mut s = UniformTimes { steps: 4 };
    check_time_sampler(&mut s);
    tch::manual_seed(0);
    let t = s.sample(4000, Clock { step: 0, total: 1 }, Device::Cpu).t;
    for (k, value) in [0.25, 0.5, 0.75, 1.0].into_iter().enumerate() {
        let share = t.eq(value).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((share - 0.25).abs() < 0.03, "{k}: {share}");
    }
}

#[test]
fn bad_schedules_are_named() {
    let field = |c: NoiseScheduleConfig| c.build().unwrap_err().to_string();
    assert!(field(NoiseScheduleConfig::Cosine { steps: 0 }).starts_with("steps: 0"));
    let bad = NoiseScheduleConfig::Linear { steps: 10, beta_start: -1.0, beta_end: 0.02 };
    assert!(field(bad).starts_with("beta_start: -1"));
    assert!(LossWeighting::MinSnr { gamma: f64::NAN }.check().is_err());
}
