//! Laws, textbook targets, and the peers' numbers.

mod learning;
mod times;

use crate::{LossWeighting, NoiseScheduleConfig, Prediction};
use heldout_core::{NoiseSchedule, Parameterization, Weighting};
use heldout_testkit::{Golden, TrigSchedule, check_parameterization, check_schedule, check_weighting, close};
use tch::{Device, Kind, Tensor};

const COSINE: NoiseScheduleConfig = NoiseScheduleConfig::Cosine { steps: 1000 };

/// Every kind of schedule, with settings that its paper or a public model uses.
fn configs() -> Vec<NoiseScheduleConfig> {
    use NoiseScheduleConfig as C;
    let shifted = |shift, inner| C::Shifted { shift, inner: Box::new(inner) };
    vec![
        C::DDPM,
        COSINE,
        C::Cosine { steps: 7 },
        C::ScaledLinear { steps: 1000, beta_start: 0.00085, beta_end: 0.012 },
        C::Sigmoid { steps: 100, beta_start: 1e-4, beta_end: 0.02 },
        C::ZeroTerminalSnr { inner: Box::new(C::DDPM) },
        C::ZeroTerminalSnr { inner: Box::new(C::Cosine { steps: 7 }) },
        C::VpLinear { beta_min: 0.1, beta_max: 20.0 },
        C::VpCosine { offset: 0.008 },
        C::Ve { sigma_min: 0.01, sigma_max: 50.0 },
        C::Edm { sigma_max: 80.0 },
        C::Flow,
        C::Trigonometric,
        shifted(3.0, C::Flow),
        shifted(0.5, C::VpLinear { beta_min: 0.1, beta_max: 20.0 }),
        shifted(2.0, COSINE),
    ]
}

fn schedules() -> Vec<Box<dyn NoiseSchedule>> {
    configs().iter().map(|c| c.build().unwrap()).collect()
}

fn weightings() -> Vec<LossWeighting> {
    use LossWeighting as W;
    let mut all = vec![
        W::Constant,
        W::Snr,
        W::SnrPlusOne,
        W::MinSnr { gamma: 5.0 },
        W::SoftMinSnr { gamma: 5.0 },
        W::P2 { k: 1.0, gamma: 1.0 },
        W::Edm { sigma_data: 0.5 },
        W::Sigmoid { bias: -1.0 },
    ];
    all.extend(all.clone().into_iter().map(|w| W::PerLogSnr { inner: Box::new(w) }));
    all
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
        for p in [
            Prediction::Epsilon,
            Prediction::XStart,
            Prediction::V,
            Prediction::Velocity,
            Prediction::Edm { sigma_data: 0.5 },
        ] {
            check_parameterization(&p, &s);
        }
        weightings().iter().for_each(|w| check_weighting(w, &s));
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
    close(&target(Prediction::XStart), &x, 1e-9);
    close(&(target(Prediction::Velocity) / (&m.d_alpha * &x + &m.d_sigma * &noise)), &x.ones_like(), 1e-9);
    let m = NoiseScheduleConfig::Flow.build().unwrap().marginal(&times());
    let (a, b) = Prediction::Velocity.scalings(&m).target(&m);
    close(&(a * &x + b * &noise), &(&noise - &x), 1e-9);
}

/// Karras et al. 2022, Table 1, in their own coordinates; unit variance of input and target on every schedule.
#[test]
fn edm_preconditioning_is_the_papers() {
    let sd = 0.5;
    let m = NoiseScheduleConfig::Edm { sigma_max: 80.0 }.build().unwrap().marginal(&times());
    let s = Prediction::Edm { sigma_data: sd }.scalings(&m);
    let total: Tensor = m.sigma.square() + sd * sd;
    close(&s.c_skip, &(sd * sd / &total), 1e-12);
    close(&s.c_out, &(&m.sigma * sd / total.sqrt()), 1e-12);
    close(&s.c_in, &total.rsqrt(), 1e-12);
    close(&s.c_noise, &(m.sigma.log() * 0.25), 1e-12);
    for schedule in schedules() {
        let m = schedule.marginal(&times());
        let s = Prediction::Edm { sigma_data: sd }.scalings(&m);
        let variance = |a: &Tensor, b: &Tensor| (a * sd).square() + b.square();
        close(&variance(&(&s.c_in * &m.alpha), &(&s.c_in * &m.sigma)), &times().ones_like(), 1e-9);
        let (a, b) = s.target(&m);
        close(&variance(&a, &b), &times().ones_like(), 1e-6);
    }
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
    close(&(plain(min_snr.clone(), Prediction::Epsilon) / (snr.clamp_max(5.0) / &snr)), &one, 1e-9);
    close(&(plain(min_snr.clone(), Prediction::V) / (snr.clamp_max(5.0) / (&snr + 1.0))), &one, 1e-9);
    close(&(plain(min_snr, Prediction::XStart) / snr.clamp_max(5.0)), &one, 1e-9);
    let soft = plain(LossWeighting::SoftMinSnr { gamma: 5.0 }, Prediction::Epsilon);
    close(&soft, &(5.0 / (&snr + 5.0)), 1e-9);
    close(&plain(LossWeighting::P2 { k: 1.0, gamma: 0.5 }, Prediction::Epsilon), &(&snr + 1.0).rsqrt(), 1e-9);
    let sigmoid = plain(LossWeighting::Sigmoid { bias: -1.0 }, Prediction::Epsilon);
    close(&sigmoid, &(-1.0f64 - snr.log()).sigmoid(), 1e-9);
    let edm = plain(LossWeighting::Edm { sigma_data: 0.5 }, Prediction::Edm { sigma_data: 0.5 });
    close(&edm, &one, 1e-9);
}

/// Kingma et al. 2021: the variational bound in continuous time depends on the ends of the schedule alone.
#[test]
fn the_variational_bound_knows_only_the_ends_of_the_schedule() {
    // Of the exact denoiser of unit Gaussian data, |x_start_hat - x_start|^2 is sigma^2 on average.
    let bound = |c: &NoiseScheduleConfig, ends: [f64; 2]| {
        let s = c.build().unwrap();
        let t = Tensor::linspace(0.0, 1.0, 200_001, (Kind::Double, Device::Cpu));
        let range: Vec<f64> = Vec::try_from(s.time_of(&Tensor::from_slice(&ends))).unwrap();
        let t = t * (range[1] - range[0]) + range[0];
        let m = s.marginal(&t);
        let weight = LossWeighting::PerLogSnr { inner: Box::new(LossWeighting::Snr) }.weight(&m);
        let error = m.sigma.square() / (m.alpha.square() + m.sigma.square());
        (weight * error).mean(Kind::Double).double_value(&[]) * (range[1] - range[0])
    };
    let (high, low) = (6.0f64, -6.0f64);
    // The integral of 1/2 SNR / (1 + SNR) over log SNR.
    let exact = 0.5 * ((1.0 + high.exp()) / (1.0 + low.exp())).ln();
    for c in configs() {
        let found = bound(&c, [high, low]);
        assert!((found / exact - 1.0).abs() < 2e-3, "{c:?}: {found} for {exact}");
    }
}

/// What a recipe may not combine is an error before the first step, not a loss that is no number.
#[test]
fn pure_noise_needs_a_prediction_and_a_weight_that_bear_it() {
    for c in configs() {
        let s = c.build().unwrap();
        let m = s.marginal(&Tensor::from_slice(&[1.0]));
        let alpha = m.alpha.double_value(&[0]);
        assert_eq!(Prediction::Epsilon.check(&s).is_err(), alpha < 1e-9, "{c:?}");
        assert_eq!(Prediction::Edm { sigma_data: 0.5 }.check(&s).is_err(), alpha == 0.0, "{c:?}");
        Prediction::V.check(&s).unwrap();
        Prediction::XStart.check(&s).unwrap();
        for w in weightings() {
            let weight = w.weight(&m).double_value(&[0]);
            assert!(!weight.is_nan() && weight >= 0.0, "{w:?} on {c:?}: {weight}");
            if w.check_on(&s).is_ok() {
                assert!(weight.is_finite(), "{w:?} on {c:?}: {weight}");
            }
        }
    }
}

/// Lin et al. 2024, Algorithm 1, as in diffusers.
#[test]
fn zero_terminal_snr_keeps_the_first_step_and_ends_in_noise() {
    let s = NoiseScheduleConfig::ZeroTerminalSnr { inner: Box::new(NoiseScheduleConfig::DDPM) };
    let s = s.discrete().unwrap();
    let (ours, plain) = (s.alphas_cumprod(), NoiseScheduleConfig::DDPM.discrete().unwrap().alphas_cumprod());
    close(&ours.get(0), &plain.get(0), 1e-12);
    assert_eq!(ours.double_value(&[999]), 0.0);
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "alphas_cumprod");
    close(&ours, &golden.get("linear_zero_terminal_snr"), 1e-5); // theirs: f32
}

/// Esser et al. 2024, Eq. 23, in closed form.
#[test]
fn a_shifted_flow_is_the_papers() {
    let shifted = NoiseScheduleConfig::Shifted { shift: 3.0, inner: Box::new(NoiseScheduleConfig::Flow) };
    let s = shifted.build().unwrap();
    let t = times();
    close(&s.marginal(&t).sigma, &(&t * 3.0 / (&t * 2.0 + 1.0)), 1e-12);
    let ends = s.marginal(&Tensor::from_slice(&[0.0, 1.0]));
    close(&ends.sigma, &Tensor::from_slice(&[0.0, 1.0]), 0.0);
}

#[test]
fn alphas_cumprod_are_those_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "alphas_cumprod");
    let scaled = NoiseScheduleConfig::ScaledLinear { steps: 1000, beta_start: 0.00085, beta_end: 0.012 };
    let sigmoid = NoiseScheduleConfig::Sigmoid { steps: 1000, beta_start: 1e-4, beta_end: 0.02 };
    for (name, config) in [
        ("linear", NoiseScheduleConfig::DDPM),
        ("squaredcos_cap_v2", COSINE),
        ("scaled_linear", scaled),
        ("sigmoid", sigmoid),
    ] {
        let (ours, theirs) =
            (config.discrete().unwrap().alphas_cumprod(), golden.get(name).to_kind(Kind::Double));
        close(&(ours / theirs), &Tensor::ones([1000], (Kind::Double, Device::Cpu)), 1e-4); // theirs: a product in f32
    }
    let (ours, theirs) = (COSINE.discrete().unwrap().alphas_cumprod(), golden.get("squaredcos_cap_v2_f64"));
    close(&(ours / theirs), &Tensor::ones([1000], (Kind::Double, Device::Cpu)), 1e-9);
}

/// On the grid, the network is told the integer step and the marginal is the table's.
#[test]
fn grid_times_are_integer_steps() {
    let s = NoiseScheduleConfig::DDPM.discrete().unwrap();
    let t = Tensor::from_slice(&[0.001, 0.5, 1.0]);
    let m = s.marginal(&t);
    close(&m.noise_label, &Tensor::from_slice(&[0.0, 499.0, 999.0]), 1e-9);
    let table = s.alphas_cumprod().index_select(0, &Tensor::from_slice(&[0i64, 499, 999]));
    close(&m.alpha.square(), &table, 1e-12);
    close(&s.marginal(&Tensor::from_slice(&[0.0])).sigma, &Tensor::from_slice(&[0.0]), 0.0);
}

#[test]
fn bad_schedules_are_named() {
    let field = |c: NoiseScheduleConfig| c.build().unwrap_err().to_string();
    assert!(field(NoiseScheduleConfig::Cosine { steps: 0 }).starts_with("steps: 0"));
    let bad = NoiseScheduleConfig::Linear { steps: 10, beta_start: -1.0, beta_end: 0.02 };
    assert!(field(bad).starts_with("beta_start: -1"));
    let shifted = NoiseScheduleConfig::Shifted { shift: 0.0, inner: Box::new(COSINE) };
    assert!(field(shifted).starts_with("shift: 0"));
    let nested = NoiseScheduleConfig::ZeroTerminalSnr { inner: Box::new(NoiseScheduleConfig::Flow) };
    assert!(field(nested).starts_with("inner.kind: continuous"));
    let s = COSINE.build().unwrap();
    assert!(LossWeighting::MinSnr { gamma: f64::NAN }.check_on(&s).is_err());
    assert!(Prediction::Edm { sigma_data: -1.0 }.check(&s).is_err());
}
