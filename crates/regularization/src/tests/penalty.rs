//! Penalties, against closed forms.

use super::parts::{Map, around, two_heads, with_context};
use super::{batch, denoiser, images};
use crate::{
    ConsistencyConfig, DeepSupervisionConfig, FeatureAlignmentConfig, FrozenFeatures, InputGradientConfig,
    JacobianConfig, LossGradient, PenaltyConfig,
};
use heldout_core::{
    Batch, Clock, Cond, Denoising, DenoisingPenalty, Marginal, NoiseSchedule, Noised, Params, Penalty,
    Persist, Preconditioned, Site, like, mean_flat,
};
use heldout_testkit::{TrigSchedule, check_penalty, close, denoising_step};
use serde_json::{Value, from_value, json};
use tch::{Device, Kind, Tensor, nn};

pub(super) const CLOCK: Clock = Clock { step: 4, total: 10 };
const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn penalty(params: &Params, shape: [i64; 3], weight: f64, term: &Value) -> DenoisingPenalty {
    let config: PenaltyConfig = from_value(json!({"weight": weight, "term": term})).unwrap();
    with_context(params, shape, |context| config.build(context).unwrap())
}

pub(super) fn look<T>(
    model: &Preconditioned,
    batch: &Batch,
    penalty: &mut dyn for<'a> Penalty<Denoising<'a>>,
    needs: &dyn for<'a> Penalty<Denoising<'a>>,
    look: impl FnOnce(&Denoising<'_>, Tensor) -> T,
) -> T {
    denoising_step(model, batch, CLOCK, needs, |view| {
        let value = penalty.penalty(view).unwrap();
        look(view, value)
    })
}

fn config<T: serde::de::DeserializeOwned>(text: Value) -> T {
    from_value(text).unwrap()
}

#[test]
fn every_penalty_keeps_the_law() {
    let (params, model) = two_heads();
    let mut images = images(1);
    images.cond.text_embeds = Some(Tensor::randn([6, 3], F32));
    let critic = json!({"kind": "adversarial", "channels": [8, 8], "rate": 0.01, "diffusion": {}, "r1": {}});
    for term in [
        json!({"kind": "jacobian", "probes": 2}),
        json!({"kind": "jacobian", "vectors": "gaussian"}),
        json!({"kind": "input_gradient"}),
        json!({"kind": "loss_gradient"}),
        json!({"kind": "consistency"}),
        json!({"kind": "deep_supervision", "heads": 1}),
        json!({"kind": "feature_alignment", "site": "mid", "hidden": 8, "network": "a"}),
        json!({"kind": "text_alignment", "clip": "a", "min_log_snr": -20.0}),
        critic,
    ] {
        check_penalty(|| penalty(&params, [1, 8, 8], 0.5, &term), &model, &params, &images);
        // The gradient reaches the weights.
        let (mut asked, needs) =
            (penalty(&params, [1, 8, 8], 1.0, &term), penalty(&params, [1, 8, 8], 1.0, &term));
        look(&model, &images, asked.as_mut(), needs.as_ref(), |_, value| value.mean(Kind::Float).backward());
        let moved = params.grads().map(|g| g.abs().max().double_value(&[])).fold(0.0, f64::max);
        assert!(moved > 0.0, "{term}: no gradient");
        params.zero_grad();
    }
}

/// At weight 0 a term is not asked: nothing is drawn, no critic trained.
#[test]
fn weight_0_asks_nothing() {
    let (params, model) = two_heads();
    let make = |weight| {
        let term = json!({"kind": "adversarial", "channels": [4]});
        let config: PenaltyConfig = config(json!({"weight": weight, "every": 2, "term": term}));
        with_context(&params, [1, 8, 8], |context| config.build(context).unwrap())
    };
    for (weight, step, asked) in [(0.0, 4, 0), (1.0, 5, 0), (1.0, 4, 1)] {
        let (mut penalty, needs) = (make(weight), make(weight));
        denoising_step(&model, &images(1), Clock { step, total: 10 }, needs.as_ref(), |view| {
            tch::manual_seed(9);
            let value = penalty.penalty(view).unwrap();
            let drawn = Tensor::rand([3], F32);
            tch::manual_seed(9);
            assert_eq!(value.abs().max().double_value(&[]) == 0.0, asked == 0);
            assert_eq!(penalty.state().values["calls"], json!(asked));
            assert!(asked == 1 || drawn.equal(&Tensor::rand([3], F32)), "draws at weight 0");
        });
    }
}

#[test]
fn the_jacobian_of_a_linear_map_is_its_norm() {
    tch::manual_seed(4);
    let one = |model: &Preconditioned, term: Value| {
        let batch = Batch::new(Tensor::randn([64, 4, 1, 1], F32), Cond::default());
        let mut penalty: JacobianConfig = config(term);
        let needs = penalty;
        look(model, &batch, &mut penalty, &needs, |_, value| value)
    };
    let scaled = around(Map(Tensor::eye(4, F32) * 0.5));
    close(&one(&scaled, json!({"probes": 3})), &(Tensor::ones([64], F32) * 0.25), 1e-6);

    let matrix = Tensor::randn([4, 4], F32);
    let wanted = matrix.square().sum(Kind::Double).double_value(&[]) / 4.0;
    let map = around(Map(matrix));
    for vectors in ["rademacher", "gaussian"] {
        let drawn =
            Tensor::cat(&(0..200).map(|_| one(&map, json!({"vectors": vectors}))).collect::<Vec<_>>(), 0);
        let (mean, error) = (drawn.mean(Kind::Double).double_value(&[]), drawn.std(true).double_value(&[]));
        let error = error / (drawn.numel() as f64).sqrt();
        assert!((mean - wanted).abs() < 4.0 * error && error < 0.05 * wanted, "{mean} {wanted} {error}");
    }
}

#[test]
fn the_input_gradient_of_a_linear_map_is_known() {
    tch::manual_seed(4);
    let matrix = Tensor::randn([4, 4], F32);
    let batch = Batch::new(Tensor::randn([6, 4, 1, 1], F32), Cond::default());
    let (mut penalty, needs) = (InputGradientConfig {}, InputGradientConfig {});
    look(&around(Map(matrix.copy())), &batch, &mut penalty, &needs, |view, value| {
        let rest = (view.x_start_hat - view.target).flatten(1, -1);
        let gradient = rest.matmul(&matrix) * (2.0 / 4.0);
        close(&value, &(gradient.square().sum_dim_intlist(1i64, false, Kind::Float) * 4.0), 1e-4);
    });
}

/// The value and the gradient of the squared gradient against finite differences, in f64.
#[test]
fn the_loss_gradient_agrees_with_finite_differences() {
    let (params, model) = denoiser();
    params.tensors().for_each(|p| p.shallow_clone().set_data(&p.detach().to_kind(Kind::Double)));
    let batch = batch().map(|x| x.to_kind(Kind::Double));
    let mut penalty = LossGradient { params: params.shallow_clone() };
    let needs = ConsistencyConfig::default();
    denoising_step(&model, &batch, CLOCK, &needs, |view| {
        let loss = || {
            let scalings = model.parameterization.scalings(&view.noised.marginal);
            let raw = model.raw(&view.noised.x_t, &scalings, view.cond, true, &mut ());
            (raw - view.target).square().flatten(1, -1).mean_dim(1i64, false, Kind::Double)
        };
        let number = |t: Tensor| t.mean(Kind::Double).double_value(&[]);
        let mut squared = || {
            let loss = loss();
            let Denoising {
                denoiser, noised, x_start_hat, target, weight, variance, taps, cond, clock, ..
            } = *view;
            let exact = Denoising {
                denoiser,
                noised,
                x_start_hat,
                target,
                weight,
                loss: &loss,
                variance,
                taps,
                cond,
                clock,
            };
            penalty.penalty(&exact).unwrap()
        };
        let h = 1e-5;
        let mut sum = 0.0;
        for p in params.tensors() {
            let flat = p.detach().view(-1);
            for i in 0..flat.numel() as i64 {
                let mut place = flat.narrow(0, i, 1);
                let mut at = |step: f64| {
                    let _ = place.g_add_scalar_(step);
                    number(loss())
                };
                let (up, down) = (at(h), at(-2.0 * h));
                at(h);
                sum += ((up - down) / (2.0 * h)).powi(2);
            }
        }
        let value = squared();
        assert!((number(value.shallow_clone()) - sum).abs() < 1e-6 * sum, "{value:?} {sum}");

        value.backward();
        let along: Vec<Tensor> = params.tensors().map(|p| p.detach().randn_like()).collect();
        let slope: f64 =
            params.grads().zip(&along).map(|(g, u)| (g * u).sum(Kind::Double).double_value(&[])).sum();
        let mut at = |step: f64| {
            params.tensors().zip(&along).for_each(|(p, u)| drop(p.detach().g_add_(&(u * step))));
            number(squared())
        };
        let (up, down) = (at(h), at(-2.0 * h));
        let wanted = (up - down) / (2.0 * h);
        assert!((slope - wanted).abs() < 1e-5 * (1e-3 + wanted.abs()), "{slope} {wanted}");
    });
}

#[test]
fn a_constant_denoiser_is_consistent() {
    let batch = Batch::new(Tensor::randn([6, 4, 1, 1], F32), Cond::default());
    let mut penalty = ConsistencyConfig::default();
    let constant = around(Map(Tensor::zeros([4, 4], F32)));
    look(&constant, &batch, &mut penalty, &ConsistencyConfig::default(), |_, value| {
        close(&value, &Tensor::zeros([6], F32), 0.0);
    });
    // The identity: the distance between the two points of the trajectory.
    let identity = around(Map(Tensor::eye(4, F32)));
    look(&identity, &batch, &mut penalty, &ConsistencyConfig::default(), |view, value| {
        let schedule = view.denoiser.schedule();
        let m = schedule.marginal(&schedule.time_of(&(view.noised.marginal.log_snr() + 0.5)));
        let x_s = like(&m.alpha, view.x_start_hat) * &view.noised.x_start
            + like(&m.sigma, view.x_start_hat) * &view.noised.noise;
        close(&value, &mean_flat(&(&view.noised.x_t - x_s).square()), 1e-5);
        assert!(value.min().double_value(&[]) > 0.0);
    });
}

/// A schedule that knows no time of clean data.
#[derive(Debug)]
struct Fragile;

impl NoiseSchedule for Fragile {
    fn marginal(&self, t: &Tensor) -> Marginal {
        TrigSchedule.marginal(t)
    }
    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        TrigSchedule.time_of(log_snr) + log_snr * 0.0
    }
}

/// The ends of time have no less noisy neighbour, or none that is finite.
#[test]
fn consistency_is_finite_at_both_ends() {
    let (_, mut model) = two_heads();
    model.schedule = Box::new(Fragile);
    let batch = images(1);
    let needs = ConsistencyConfig::default();
    denoising_step(&model, &batch, CLOCK, &needs, |view| {
        let t = Tensor::from_slice(&[0.0, 1.0, 0.0, 1.0, 0.5, 0.5]);
        let (x_start, noise) = (view.noised.x_start.copy(), view.noised.noise.copy());
        let marginal = TrigSchedule.marginal(&t);
        let noised = Noised { x_t: view.noised.x_t.copy(), x_start, noise, t, marginal };
        let Denoising { denoiser, x_start_hat, target, weight, loss, variance, taps, cond, clock, .. } =
            *view;
        let ends = Denoising {
            denoiser,
            noised: &noised,
            x_start_hat,
            target,
            weight,
            loss,
            variance,
            taps,
            cond,
            clock,
        };
        let value = ConsistencyConfig::default().penalty(&ends).unwrap();
        assert_eq!(value.isfinite().all().int64_value(&[]), 1);
    });
}

#[test]
fn deep_supervision_is_the_mean_over_heads() {
    let (_, model) = two_heads();
    let mut penalty = DeepSupervisionConfig { heads: 2 };
    let needs = penalty;
    look(&model, &images(1), &mut penalty, &needs, |view, value| {
        let [one, two] = [&view.taps[0], &view.taps[1]].map(|(_, h)| h.narrow(1, 0, 1));
        let error = |h: &Tensor| mean_flat(&(h - view.target).square());
        assert_eq!(
            (view.taps[0].0, view.taps[1].1.size()[1]),
            (Site::Head(1), 2),
            "a head of twice the channels"
        );
        close(&value, &((error(&one) + error(&two)) * 0.5 * view.weight), 1e-6);
        close(&(error(&two) * view.weight), view.loss, 1e-6);
    });
    let other = DeepSupervisionConfig { heads: 1 };
    let missing = look_error(&model, &mut penalty, &other);
    assert!(missing.contains("Head(2)"), "{missing}");
}

fn look_error(
    model: &Preconditioned,
    penalty: &mut dyn for<'a> Penalty<Denoising<'a>>,
    needs: &dyn for<'a> Penalty<Denoising<'a>>,
) -> String {
    denoising_step(model, &images(1), CLOCK, needs, |view| penalty.penalty(view).unwrap_err().to_string())
}

/// Equal features give -1 whatever their form; other ones are learned.
#[test]
fn features_align() {
    let (params, model) = two_heads();
    let batch = images(1);
    let aligned = |vars: &nn::VarStore, frozen: FrozenFeatures| {
        let config: FeatureAlignmentConfig = config(json!({"site": "mid", "hidden": 8, "network": "a"}));
        config.build(&vars.root(), 4, frozen).unwrap()
    };
    let target = Tensor::from_slice(&[1.0f32, -2.0, 3.0]);
    for shape in [vec![6, 3], vec![6, 16, 3], vec![6, 64, 3], vec![6, 3, 4, 4]] {
        let vars = nn::VarStore::new(Device::Cpu);
        let (wide, channels) = (target.copy(), if shape.len() == 4 { [1, 3, 1, 1].as_slice() } else { &[3] });
        let features = wide.view(channels).expand(&shape, false);
        let mut penalty = aligned(&vars, FrozenFeatures::new(3, move |_| features.shallow_clone()));
        for (name, mut p) in vars.variables().into_iter().filter(|(name, _)| name.starts_with("2.")) {
            tch::no_grad(|| if name == "2.weight" { drop(p.zero_()) } else { p.copy_(&(&target * 0.1)) });
        }
        let needs = aligned(&nn::VarStore::new(Device::Cpu), FrozenFeatures::new(3, Tensor::shallow_clone));
        look(&model, &batch, &mut penalty, &needs, |_, value| close(&value, &-Tensor::ones([6], F32), 1e-5));
    }

    let vars = nn::VarStore::new(Device::Cpu);
    let frozen = || FrozenFeatures::new(4, |x| x.view([-1, 4, 4, 4]));
    let (mut penalty, needs) = (aligned(&vars, frozen()), aligned(&nn::VarStore::new(Device::Cpu), frozen()));
    tch::set_num_threads(1); // the tensors are tiny
    let mut step = || {
        tch::manual_seed(8);
        let value = look(&model, &batch, &mut penalty, &needs, |_, value| value.mean(Kind::Float));
        value.backward();
        for mut p in params.handles().into_iter().chain(vars.trainable_variables()) {
            let grad = p.grad();
            if grad.defined() {
                tch::no_grad(|| drop(p.g_sub_(&(&grad * 0.5))));
                p.zero_grad();
            }
        }
        value.double_value(&[])
    };
    let (first, last) = (step(), (0..60).map(|_| step()).last().unwrap());
    assert!(last < first - 0.1, "{first} {last}");
}

#[test]
fn what_a_penalty_cannot_be_names_the_field() {
    let fails = |text: Value, words: &str| {
        let message = match from_value::<PenaltyConfig>(text) {
            Ok(config) => config.check().unwrap_err().to_string(),
            Err(e) => e.to_string(),
        };
        assert!(message.contains(words), "{message}");
    };
    let of = |term: Value| json!({"weight": 1.0, "term": term});
    fails(json!({"weight": -1.0, "term": {"kind": "consistency"}}), "weight: -1");
    fails(json!({"weight": 1.0, "every": 0, "term": {"kind": "consistency"}}), "every: 0");
    fails(of(json!({"kind": "consistency", "delta": 0.0})), "term.delta: 0");
    fails(of(json!({"kind": "consistency", "dleta": 0.1})), "dleta");
    fails(of(json!({"kind": "jacobian", "probes": 0})), "term.probes: 0");
    fails(of(json!({"kind": "input_gradient", "by": 1})), "by");
    fails(of(json!({"kind": "deep_supervision", "heads": 0})), "term.heads: 0");
    fails(
        of(json!({"kind": "feature_alignment", "site": {"block": 1}, "hidden": 0, "network": "a"})),
        "term.hidden: 0",
    );
    fails(of(json!({"kind": "text_alignment", "clip": "a", "temperature": 0.0})), "term.temperature: 0");
    fails(of(json!({"kind": "text_alignment"})), "clip");
    fails(of(json!({"kind": "adversarial", "loss": "wasserstein"})), "gradient_penalty");
    fails(of(json!({"kind": "adversarial", "channels": []})), "term.channels: []");
    fails(of(json!({"kind": "adversarial", "r1": {"gamma": 0.0}})), "term.r1.gamma: 0");
    fails(of(json!({"kind": "adversarial", "diffusion": {"t_min": 0}})), "term.diffusion.t_min: 0");
}
