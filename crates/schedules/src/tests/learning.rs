//! What is trained or fitted with the model: schedules, uncertainty, variance.

use super::COSINE;
use crate::{
    Discrete, Dynamic, LearnedSchedule, LearnedUncertainty, LossWeighting, NoiseScheduleConfig, Prediction,
    ScheduleVariance, VarianceBound, bound_term,
};
use heldout_core::{
    Clock, Cond, Denoiser, Denoising, NoiseSchedule, Noised, Penalty, TimeSampler, Weighting, like,
};
use heldout_testkit::{
    check_parameterization, check_persist, check_schedule, check_time_sampler, check_weighting, close,
    gaussian_denoiser,
};
use std::rc::Rc;
use tch::nn::OptimizerConfig;
use tch::{Device, Kind, Tensor, nn};

const F64: (Kind, Device) = (Kind::Double, Device::Cpu);
const CLOCK: Clock = Clock { step: 0, total: 1 };

fn learned() -> (nn::VarStore, Rc<LearnedSchedule>) {
    let vars = nn::VarStore::new(Device::Cpu);
    let s = LearnedSchedule::new(&vars.root(), [10.0, -6.0], 32).unwrap();
    (vars, Rc::new(s))
}

#[test]
fn a_learned_schedule_keeps_the_laws_and_its_ends() {
    let (vars, s) = learned();
    let perturb = || {
        tch::manual_seed(1);
        tch::no_grad(|| {
            vars.trainable_variables().iter_mut().for_each(|v| _ = v.g_add_(&(v.randn_like() * 0.5)));
        });
    };
    for _ in 0..2 {
        check_schedule(&s);
        check_parameterization(&Prediction::V, &s);
        close(&s.log_snr(&Tensor::from_slice(&[0.0, 1.0])), &Tensor::from_slice(&[10.0, -6.0]), 1e-9);
        perturb();
    }
}

fn noised(s: &dyn NoiseSchedule, t: Tensor, std: f64) -> Noised {
    let x_start = Tensor::randn([t.size()[0], 1, 4, 4], F64) * std;
    let (noise, marginal) = (x_start.randn_like(), s.marginal(&t));
    let x_t = like(&marginal.alpha, &x_start) * &x_start + like(&marginal.sigma, &x_start) * &noise;
    Noised { x_start, noise, t, x_t, marginal }
}

/// Kingma et al. 2021, section 5.1: the schedule lowers the variance of the bound and leaves its mean.
#[test]
fn a_learned_schedule_lowers_the_variance_of_the_bound_and_leaves_the_mean() {
    let (vars, s) = learned();
    let denoiser = gaussian_denoiser(s.clone(), 0.3);
    let mut penalty = ScheduleVariance { schedule: s.clone() };
    let bound = LossWeighting::PerLogSnr { inner: Box::new(LossWeighting::Snr) };
    let cond = Cond::default();
    let measure = || {
        tch::manual_seed(9);
        let n = noised(&s, Tensor::rand([20_000], F64), 0.3);
        let hat = denoiser.denoise(&n.x_t, &n.t, &cond);
        let error = (hat - &n.x_start).square().flatten(1, -1).mean_dim(1i64, false, Kind::Double);
        let l = bound.weight(&n.marginal) * error;
        (l.mean(Kind::Double).double_value(&[]), l.std(true).double_value(&[]))
    };
    let (mean, spread) = measure();
    let mut adam = nn::Adam::default().build(&vars, 0.05).unwrap();
    for step in 0..150 {
        tch::manual_seed(100 + step);
        let noised = noised(&s, Tensor::rand([256], F64), 0.3);
        let hat = denoiser.denoise(&noised.x_t, &noised.t, &cond);
        let view = Denoising {
            denoiser: &denoiser,
            noised: &noised,
            x_start_hat: &hat,
            target: &noised.x_start,
            weight: &noised.t,
            loss: &noised.t,
            variance: None,
            taps: &[],
            cond: &cond,
            clock: CLOCK,
        };
        adam.backward_step(&penalty.penalty(&view).unwrap().mean(Kind::Float));
    }
    let (after, less) = measure();
    let standard_error = spread / 20_000f64.sqrt();
    assert!((after - mean).abs() < 4.0 * standard_error, "the mean moved from {mean} to {after}");
    assert!(less < 0.6 * spread, "the spread went from {spread} to {less}");
    check_schedule(&s);
}

/// The surrogate's gradient is that of the squared loss, taken by differences.
#[test]
fn the_gradient_of_the_schedules_variance_is_exact() {
    let (vars, s) = learned();
    let denoiser = gaussian_denoiser(s.clone(), 0.3);
    let cond = Cond::default();
    let mut weight = vars.variables()["l3.weight"].shallow_clone();
    let t = Tensor::from_slice(&[0.3, 0.6]);
    let value = |gradient: bool| {
        tch::manual_seed(3);
        let noised = noised(&s, t.shallow_clone(), 0.3);
        let hat = denoiser.denoise(&noised.x_t, &noised.t, &cond);
        let view = Denoising {
            denoiser: &denoiser,
            noised: &noised,
            x_start_hat: &hat,
            target: &noised.x_start,
            weight: &noised.t,
            loss: &noised.t,
            variance: None,
            taps: &[],
            cond: &cond,
            clock: CLOCK,
        };
        let loss = ScheduleVariance { schedule: s.clone() }.penalty(&view).unwrap().sum(Kind::Double);
        if gradient {
            loss.backward();
        }
        loss.double_value(&[])
    };
    value(true);
    let (exact, h) = (weight.grad().double_value(&[7]), 1e-2);
    let moved = |weight: &mut Tensor, by: f64| tch::no_grad(|| _ = weight.get(7).g_add_scalar_(by));
    moved(&mut weight, h);
    let up = value(false);
    moved(&mut weight, -2.0 * h);
    let slope = (up - value(false)) / (2.0 * h);
    assert!((slope / exact - 1.0).abs() < 1e-3, "{exact} for {slope}");
}

fn dynamic() -> Rc<Dynamic> {
    Rc::new(Dynamic::new(Rc::from(COSINE.build().unwrap()), 64, Device::Cpu).unwrap())
}

#[test]
fn a_dynamic_schedule_goes_where_the_loss_is() {
    let s = dynamic();
    check_schedule(&s);
    let before = s.log_snr(&Tensor::from_slice(&[0.25, 0.5, 0.75]));
    close(&before, &COSINE.build().unwrap().log_snr(&Tensor::from_slice(&[0.25, 0.5, 0.75])), 1e-9);

    let mut times = s.times(0.99, 0.1, 20).unwrap();
    check_time_sampler(&mut times);
    // A loss that lies around log SNR 2, and nowhere else.
    let loss = |t: &Tensor| (-(s.log_snr(t) - 2.0).square() * 0.5).exp();
    let spread = |l: &Tensor| (l.std(true) / l.mean(Kind::Double)).double_value(&[]);
    let (mut first, mut last) = (0.0, 0.0);
    for step in 0..400 {
        tch::manual_seed(step);
        let drawn = times.sample(512, Clock { step: step as u64, total: 400 }, Device::Cpu);
        let l = loss(&drawn.t);
        last = spread(&l);
        first = if step == 0 { last } else { first };
        times.observe(&drawn.t, &l);
    }
    assert!(last < 0.6 * first, "relative spread {first} before, {last} after");
    let middle = s.log_snr(&Tensor::from_slice(&[0.5])).double_value(&[0]);
    assert!((middle - 2.0).abs() < 0.5, "the middle lies at log SNR {middle}");
    let t = Tensor::linspace(0.01, 0.99, 99, F64);
    close(&s.time_of(&s.log_snr(&t)), &t, 1e-9);

    let other = dynamic();
    let mut fresh = other.times(0.99, 0.1, 20).unwrap();
    check_persist(&times, &mut fresh);
    close(&other.log_snr(&t), &s.log_snr(&t), 0.0);
}

/// The best uncertainty of a level is the log of its loss: every level then adds as much.
#[test]
fn learned_uncertainty_becomes_the_log_of_the_loss() {
    let vars = nn::VarStore::new(Device::Cpu);
    tch::manual_seed(1);
    let w = LearnedUncertainty::new(&vars.root(), LossWeighting::SnrPlusOne, 128).unwrap();
    let s = NoiseScheduleConfig::VpCosine { offset: 0.008 }.build().unwrap();
    check_weighting(&w, &s);
    let loss = |t: &Tensor| (t * -2.0).exp();
    let mut adam = nn::Adam::default().build(&vars, 0.02).unwrap();
    for step in 0..1500 {
        tch::manual_seed(10 + step);
        let t = Tensor::rand([256], F64) * 0.96 + 0.02;
        let m = s.marginal(&t);
        let weighted = w.weight(&m) / LossWeighting::SnrPlusOne.weight(&m) * loss(&t);
        adam.backward_step(&(weighted + w.regularizer(&m).unwrap()).mean(Kind::Double));
    }
    let t = Tensor::linspace(0.1, 0.9, 9, F64);
    close(&w.regularizer(&s.marginal(&t)).unwrap(), &loss(&t).log(), 0.1);
}

fn linear() -> Discrete {
    NoiseScheduleConfig::DDPM.discrete().unwrap()
}

/// Ho et al. 2020, Eq. 6 and 7 from the table, and the bound as guided-diffusion's authors define it.
#[test]
fn the_bound_is_the_divergence_of_gaussians() {
    let s = linear();
    let t = Tensor::from_slice(&[0.5]);
    let (now, next) = (s.marginal(&t), s.marginal(&(&t - 1e-3)));
    tch::manual_seed(1);
    let [x_start, noise, hat, variance] = [0, 1, 2, 3].map(|_| Tensor::randn([1, 1, 3, 3], F64));
    let x_t = like(&now.alpha, &x_start) * &x_start + like(&now.sigma, &x_start) * noise;
    let bar: Vec<f64> = Vec::try_from(s.alphas_cumprod()).unwrap();
    let (bar, before) = (bar[499], bar[498]);
    let beta = 1.0 - bar / before;
    let small = beta * (1.0 - before) / (1.0 - bar);
    let mean = |x: &Tensor| {
        x * (before.sqrt() * beta / (1.0 - bar)) + &x_t * ((1.0 - beta).sqrt() * (1.0 - before) / (1.0 - bar))
    };
    let log_variance: Tensor = (&variance + 1.0) * 0.5 * (beta.ln() - small.ln()) + small.ln();
    let kl = (&log_variance - small.ln() - 1.0
        + (small.ln() - &log_variance).exp()
        + (mean(&x_start) - mean(&hat)).square() / log_variance.exp())
        * 0.5;
    let bits = kl.mean(Kind::Double) / std::f64::consts::LN_2;
    close(&bound_term(&x_start, &x_t, &hat, Some(&variance), &now, &next), &bits.view([1]), 1e-9);
    let exact = bound_term(&x_start, &x_t, &x_start, None, &now, &next);
    close(&exact, &Tensor::from_slice(&[0.0]), 1e-12);
}

/// The last term is a distribution over the 256 values: its probabilities sum to 1.
#[test]
fn the_last_term_is_a_distribution_over_8_bit_values() {
    let s = linear();
    let (now, next) = (s.marginal(&Tensor::from_slice(&[1e-3])), s.marginal(&Tensor::from_slice(&[0.0])));
    let values = Tensor::linspace(-1.0, 1.0, 256, F64).view([256, 1, 1, 1]);
    for mean in [-1.0, 0.1, 0.7] {
        let hat = Tensor::full([256, 1, 1, 1], mean, F64);
        let x_t = &hat * &now.alpha;
        let bits = bound_term(&values, &x_t, &hat, None, &now, &next);
        let total = (bits * -std::f64::consts::LN_2).exp().sum(Kind::Double).double_value(&[]);
        assert!((total - 1.0).abs() < 1e-6, "{total}");
    }
}

/// The penalty trains the variance to what the mean's error asks for, and sends nothing into the mean.
#[test]
fn the_variance_bound_trains_the_variance_alone() {
    let s = linear();
    let denoiser = gaussian_denoiser(linear(), 0.5);
    let cond = Cond::default();
    tch::manual_seed(1);
    let n = noised(&s, Tensor::full([64], 0.2, F64), 0.5);
    let hat = denoiser.denoise(&n.x_t, &n.t, &cond).set_requires_grad(true);
    let variance = Tensor::zeros([64, 1, 4, 4], F64).set_requires_grad(true);
    let view = Denoising {
        denoiser: &denoiser,
        noised: &n,
        x_start_hat: &hat,
        target: &n.x_start,
        weight: &n.t,
        loss: &n.t,
        variance: Some(&variance),
        taps: &[],
        cond: &cond,
        clock: CLOCK,
    };
    let mut penalty = VarianceBound { steps: 1000 };
    penalty.penalty(&view).unwrap().sum(Kind::Float).backward();
    assert!(!hat.grad().defined(), "the mean is trained");
    assert!(variance.grad().abs().min().double_value(&[]) > 0.0);
    let without = Denoising { variance: None, ..view };
    assert!(penalty.penalty(&without).unwrap_err().to_string().starts_with("variance_bound: "));
}
