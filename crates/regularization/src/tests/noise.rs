//! Sources of noise.

use crate::noise::cheapest;
use crate::{
    Gaussian, InputPerturbation, InputPerturbationConfig, MultiResolutionNoise, MultiResolutionNoiseConfig,
    NoiseTechnique, OffsetNoise, OffsetNoiseConfig, OptimalAssignment, OptimalAssignmentConfig,
    ScheduleJitter, ScheduleJitterConfig,
};
use heldout_core::{Clock, NoiseDraw, NoiseSchedule, NoiseSource, Parameterization, like};
use heldout_testkit::{TrigSchedule, VPrediction, check_absent_noise, check_noise_source, close};
use serde_json::{Value, from_value, json};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const CLOCK: Clock = Clock { step: 3, total: 10 };

#[derive(Debug)]
struct Flow;

impl NoiseSchedule for Flow {
    fn marginal(&self, t: &Tensor) -> heldout_core::Marginal {
        heldout_core::Marginal {
            alpha: 1.0f64 - t,
            sigma: t.copy(),
            d_alpha: -t.ones_like(),
            d_sigma: t.ones_like(),
            noise_label: t.copy(),
        }
    }
    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (log_snr * -0.5).sigmoid()
    }
}

fn schedule() -> Rc<dyn NoiseSchedule> {
    Rc::new(TrigSchedule)
}

/// As a recipe writes it, around plain noise.
fn source(text: Value) -> Box<dyn NoiseSource> {
    let technique: NoiseTechnique = from_value(text).unwrap();
    technique.check().unwrap();
    technique.wrap(Box::new(Gaussian), &schedule()).unwrap()
}

fn ramp(n: i64) -> (Tensor, Tensor) {
    let x = Tensor::linspace(-1.0, 1.0, n * 3 * 64, (Kind::Float, Device::Cpu)).view([n, 3, 8, 8]);
    (x, Tensor::linspace(0.01, 1.0, n, (Kind::Double, Device::Cpu)))
}

fn seeded(source: &mut dyn NoiseSource, x: &Tensor, t: &Tensor) -> NoiseDraw {
    tch::manual_seed(5);
    source.draw(x, t, CLOCK)
}

#[test]
fn every_source_keeps_the_law() {
    check_noise_source(&mut Gaussian);
    for text in [
        json!({"kind": "input_perturbation", "strength": 0.1}),
        json!({"kind": "offset", "strength": 0.1}),
        json!({"kind": "multi_resolution", "strength": 0.8}),
        json!({"kind": "optimal_assignment"}),
        json!({"kind": "schedule_jitter", "strength": 0.1}),
    ] {
        check_noise_source(source(text).as_mut());
    }
}

#[test]
fn at_strength_0_a_source_is_absent() {
    for kind in ["input_perturbation", "offset", "multi_resolution", "schedule_jitter"] {
        let later = json!({"kind": "linear", "from": 0.0, "to": 1.0, "start": 0.5});
        for strength in [json!(0.0), later] {
            let mut with = source(json!({"kind": kind, "strength": strength}));
            check_absent_noise(with.as_mut(), &mut Gaussian);
        }
    }
}

#[test]
fn input_perturbation_changes_what_is_added_and_not_what_is_asked_for() {
    let (x, t) = ramp(512);
    let config = InputPerturbationConfig { strength: 0.3.into() };
    let mut source = InputPerturbation::new(Gaussian, config).unwrap();
    let draw = seeded(&mut source, &x, &t);
    assert!(draw.target.equal(&seeded(&mut Gaussian, &x, &t).target));
    let extra = draw.applied - &draw.target;
    close(&extra.std(true), &Tensor::from(0.3), 0.005);
    close(&(extra * draw.target).mean(Kind::Float), &Tensor::from(0.0), 0.005);
}

#[test]
fn an_offset_is_one_number_for_each_image_and_channel() {
    let (x, t) = ramp(1024);
    let mut source = OffsetNoise::new(Gaussian, OffsetNoiseConfig { strength: 0.5.into() }).unwrap();
    let (draw, plain) = (seeded(&mut source, &x, &t), seeded(&mut Gaussian, &x, &t));
    assert!(draw.applied.equal(&draw.target));
    let offset = draw.target - plain.target;
    let first = offset.narrow(2, 0, 1).narrow(3, 0, 1);
    close(&offset, &first.expand_as(&offset), 1e-5);
    close(&first.std(true), &Tensor::from(0.5), 0.02);
}

#[test]
fn coarse_noise_has_unit_variance_everywhere_and_reaches_far() {
    let (x, t) = ramp(4096);
    let config = MultiResolutionNoiseConfig { strength: 0.8.into(), levels: 9 };
    let mut source = MultiResolutionNoise::new(Gaussian, config).unwrap();
    let draw = seeded(&mut source, &x, &t);
    assert!(draw.applied.equal(&draw.target));
    let variance = draw.target.square().mean_dim([0i64, 1].as_slice(), false, Kind::Float);
    close(&variance, &variance.ones_like(), 0.06);
    let corners = draw.target.select(2, 0).select(2, 0) * draw.target.select(2, 7).select(2, 7);
    assert!(
        corners.mean(Kind::Float).double_value(&[]) > 0.05,
        "opposite corners know nothing of each other"
    );
}

/// Every order of `0..n`.
fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in permutations(n - 1) {
        for place in 0..n {
            let mut longer = shorter.clone();
            longer.insert(place, n - 1);
            all.push(longer);
        }
    }
    all
}

#[test]
fn the_assignment_is_the_best_of_all_permutations() {
    let all = permutations(6);
    assert_eq!(all.len(), 720);
    for seed in 0..50 {
        tch::manual_seed(seed);
        let options = (Kind::Double, Device::Cpu);
        // Half of them with many ties.
        let cost = Tensor::randn([36], options) * if seed % 2 == 0 { 1.0 } else { 2.0 };
        let cost = if seed % 2 == 0 { cost } else { cost.round() };
        let cost = Vec::<f64>::try_from(cost).unwrap();
        let total = |order: &[usize]| order.iter().enumerate().map(|(i, j)| cost[i * 6 + j]).sum::<f64>();
        let best = all.iter().map(|p| total(p)).fold(f64::INFINITY, f64::min);
        let mut found = cheapest(&cost, 6);
        assert!((total(&found) - best).abs() < 1e-12, "{} is not {best}", total(&found));
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn assigned_noise_is_the_same_noise_nearer_to_the_data() {
    let inner =
        || InputPerturbation::new(Gaussian, InputPerturbationConfig { strength: 0.3.into() }).unwrap();
    let (x, t) = ramp(32);
    let mut source = OptimalAssignment::new(inner(), OptimalAssignmentConfig {});
    let (draw, plain) = (seeded(&mut source, &x, &t), seeded(&mut inner(), &x, &t));
    let distance = |noise: &Tensor| (noise - &x).square().sum(Kind::Double).double_value(&[]);
    assert!(distance(&draw.target) < distance(&plain.target) - 1.0);
    // Where each row went, and that both roles went there.
    let same =
        draw.target.unsqueeze(1).eq_tensor(&plain.target.unsqueeze(0)).flatten(2, -1).all_dim(2, false);
    close(
        &same.sum_dim_intlist([0i64].as_slice(), false, Kind::Float),
        &Tensor::ones([32], (Kind::Float, Device::Cpu)),
        0.0,
    );
    let order = same.to_kind(Kind::Float).argmax(1, false);
    assert!(draw.applied.equal(&plain.applied.index_select(0, &order)));
    assert!(!draw.applied.equal(&draw.target));
}

#[test]
fn jitter_gives_each_example_its_own_schedule_and_asks_for_clean_data() {
    let (x, t) = ramp(512);
    let x = x.to_kind(Kind::Double);
    let config = ScheduleJitterConfig { strength: 0.2.into() };
    let mut source = ScheduleJitter::new(Gaussian, config, schedule()).unwrap();
    let (draw, plain) = (seeded(&mut source, &x, &t), seeded(&mut Gaussian, &x, &t));
    let m = TrigSchedule.marginal(&t);
    let c = VPrediction.scalings(&m);
    let (a, b) = c.target(&m);
    let x_t = like(&m.alpha, &x) * &x + like(&m.sigma, &x) * &draw.applied;
    let target = like(&a, &x) * &x + like(&b, &x) * &draw.target;
    close(&(like(&c.c_skip, &x) * &x_t + like(&c.c_out, &x) * target), &x, 1e-9);
    // The share of the noise in x_t, and that of the data which goes with it.
    let share = |of: &Tensor, y: &Tensor| {
        (of * y).flatten(1, -1).sum_dim_intlist([1i64].as_slice(), false, Kind::Double)
    };
    let (xx, nn, xn) = (share(&x, &x), share(&plain.target, &plain.target), share(&x, &plain.target));
    let (yx, yn) = (share(&x_t, &x), share(&x_t, &plain.target));
    let det = &xx * &nn - xn.square();
    let alpha = (&yx * &nn - &yn * &xn) / &det;
    let sigma = (&yn * &xx - &yx * &xn) / det;
    close(&(alpha.square() + sigma.square()), &t.ones_like(), 1e-8);
    let k = (alpha.log() / m.alpha.log()).log().narrow(0, 0, 500);
    close(&k.std(true), &Tensor::from(0.2).to_kind(Kind::Double), 0.02);
}

#[test]
fn jitter_is_finite_at_both_ends() {
    let x = ramp(3).0;
    let t = Tensor::from_slice(&[0.0, 1e-7, 1.0]);
    let draw = seeded(source(json!({"kind": "schedule_jitter", "strength": 0.3})).as_mut(), &x, &t);
    assert!(draw.applied.isfinite().all().int64_value(&[]) == 1);
    assert!(draw.applied.abs().max().double_value(&[]) < 10.0);
}

#[test]
fn what_cannot_be_honoured_names_the_field() {
    let fails = |text: Value, field: &str| {
        let technique: NoiseTechnique = from_value(text).unwrap();
        let message = technique.check().unwrap_err().to_string();
        assert!(message.starts_with(&format!("{field}: ")), "{message}");
    };
    fails(json!({"kind": "offset", "strength": -0.1}), "strength");
    fails(json!({"kind": "input_perturbation", "strength": -0.1}), "strength");
    fails(json!({"kind": "multi_resolution", "strength": 1.5}), "strength");
    fails(json!({"kind": "schedule_jitter", "strength": -1}), "strength");
    assert!(from_value::<NoiseTechnique>(json!({"kind": "offset", "strength": 0.1, "gamma": 1})).is_err());
    let jitter: NoiseTechnique = from_value(json!({"kind": "schedule_jitter", "strength": 0.1})).unwrap();
    let flow: Rc<dyn NoiseSchedule> = Rc::new(Flow);
    let message = jitter.wrap(Box::new(Gaussian), &flow).unwrap_err().to_string();
    assert!(message.starts_with("schedule_jitter: ") && message.contains("variance-preserving"), "{message}");
}
