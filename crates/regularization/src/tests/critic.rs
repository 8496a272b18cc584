//! Critics: losses, slopes, adaptive length, and a peer.

use super::images;
use super::parts::{two_heads, with_context};
use crate::penalty::DiffusionLength;
use crate::{
    Adversarial, AdversarialConfig, AdversarialLoss, DiffusionConfig, Discriminator, LengthDraw,
    gradient_penalty, r1,
};
use heldout_core::{Clock, Params, Penalty, Persist};
use heldout_testkit::{Golden, check_persist, close, denoising_step, same};
use heldout_torch_ext::{Adam, adam_};
use serde_json::{Value, from_value, json};
use tch::{Device, Kind, Tensor, nn};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);
const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

fn adversarial(params: &Params, text: Value) -> Adversarial {
    let config: AdversarialConfig = from_value(text).unwrap();
    with_context(params, [1, 8, 8], |context| config.build(context).unwrap())
}

fn all() -> Value {
    json!({"channels": [4, 8], "rate": 0.05, "diffusion": {"interval": 2, "ada_kimg": 0.05},
           "gradient_penalty": {"every": 2}, "r1": {"gamma": 1.0, "every": 3}, "critic_steps": 2})
}

/// Penalties of these steps.
fn run(penalty: &mut Adversarial, steps: std::ops::Range<u64>) -> Vec<Tensor> {
    let (params, model) = two_heads();
    let needs = adversarial(&params, json!({"channels": [1]}));
    let one = |step| {
        let batch = images(1);
        tch::manual_seed(step as i64);
        denoising_step(&model, &batch, Clock { step, total: 9 }, &needs, |view| {
            penalty.penalty(view).unwrap()
        })
    };
    tch::set_num_threads(1); // the tensors are tiny
    steps.map(one).map(|value| value.detach()).collect()
}

#[test]
fn scripted_scores_give_known_losses() {
    let (real, fake) = (Tensor::from_slice(&[2.0, 0.5, -1.0]), Tensor::from_slice(&[-3.0, 0.0, 1.0]));
    let value = |loss: AdversarialLoss| loss.critic(&real, &fake).double_value(&[]);
    let softplus = |x: f64| x.exp().ln_1p();
    assert!((value(AdversarialLoss::Hinge) - (0.0 + 0.5 + 2.0 + 0.0 + 1.0 + 2.0) / 3.0).abs() < 1e-12);
    assert!((value(AdversarialLoss::Wasserstein) - (-2.0 - 1.5) / 3.0).abs() < 1e-12);
    let logistic: f64 = [-2.0, -0.5, 1.0, -3.0, 0.0, 1.0].map(softplus).iter().sum();
    assert!((value(AdversarialLoss::NonSaturating) - logistic / 3.0).abs() < 1e-12);
    for loss in [AdversarialLoss::Hinge, AdversarialLoss::Wasserstein] {
        close(&loss.generator(&fake), &-&fake, 0.0);
    }
    let wanted = Tensor::from_slice(&[3.0, 0.0, -1.0].map(softplus));
    close(&AdversarialLoss::NonSaturating.generator(&fake), &wanted, 1e-12);
}

/// Of a linear critic both slopes are known wherever they are asked.
#[test]
fn slopes_of_a_linear_critic_are_its_norm() {
    tch::manual_seed(5);
    let w = Tensor::randn([12], F64);
    let critic = |x: &Tensor| x.flatten(1, -1).mv(&w);
    let (real, fake) = (Tensor::randn([5, 3, 2, 2], F64), Tensor::randn([5, 3, 2, 2], F64));
    let norm = w.norm().double_value(&[]);
    let penalty = gradient_penalty(critic, &real, &fake, &Tensor::rand([5], F64)).unwrap();
    assert!((penalty.double_value(&[]) - (norm - 1.0).powi(2)).abs() < 1e-12);
    assert!((r1(critic, &real).unwrap().double_value(&[]) - norm * norm).abs() < 1e-12);
}

#[test]
fn wgan_gp_agrees_with_torch() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "wgan_gp");
    let weights: Vec<(String, Tensor)> =
        golden.section("start/").into_iter().map(|(n, t)| (n, t.set_requires_grad(true))).collect();
    let of = |name: &str| &weights.iter().find(|(n, _)| n == name).unwrap().1;
    let critic = |x: &Tensor| {
        let (w, b) = (of("conv.weight"), of("conv.bias"));
        let h = x.conv2d(w, Some(b), [1, 1], [1, 1], [1, 1], 1).silu().flatten(1, -1);
        h.linear(of("linear.weight"), Some(of("linear.bias"))).squeeze_dim(1)
    };
    let config: AdversarialConfig =
        from_value(json!({"loss": "wasserstein", "gradient_penalty": {}})).unwrap();
    let tensors: Vec<Tensor> = weights.iter().map(|(_, t)| t.shallow_clone()).collect();
    let zeros = || tensors.iter().map(|t| t.detach().zeros_like()).collect::<Vec<_>>();
    let (first, second) = (zeros(), zeros());
    let adam = Adam { rate: 1e-4, betas: [0.5, 0.9], eps: 1e-8, weight_decay: 0.0, decoupled: false };
    for step in 0..5u64 {
        let at = |name: &str| golden.get(name).get(step as i64);
        let parts = config.critic_loss(step, critic, [&at("real"), &at("fake")], || at("mix")).unwrap();
        close(&parts.loss.detach(), &at("loss"), 1e-10);
        tensors.iter().for_each(|t| t.shallow_clone().zero_grad());
        parts.loss.backward();
        let grads: Vec<Tensor> = tensors.iter().map(Tensor::grad).collect();
        if step == 0 {
            golden.section("grad/").iter().zip(&grads).for_each(|((_, wanted), g)| close(g, wanted, 1e-10));
        }
        tch::no_grad(|| adam_(&tensors, &grads, &first, &second, step + 1, &adam));
    }
    golden.section("end/").iter().zip(&tensors).for_each(|((_, w), t)| close(&t.detach(), w, 1e-9));
}

/// The critic takes images of any size, says the same of a row alone, and is told the noise level.
#[test]
fn the_critic_sees_rows_alone() {
    for shape in [[1, 8, 8], [3, 64, 64], [4, 16, 12], [2, 1, 1]] {
        let vars = nn::VarStore::new(Device::Cpu);
        let net = Discriminator::new(&vars.root(), shape, &[6, 8, 8]);
        let x = Tensor::randn([3, shape[0], shape[1], shape[2]], F32);
        let t = Tensor::from_slice(&[0i64, 10, 900]);
        let scores = net.forward(&x, &t);
        assert_eq!(scores.size(), [3]);
        close(&net.forward(&x.narrow(0, 1, 1), &t.narrow(0, 1, 1)), &scores.narrow(0, 1, 1), 1e-4);
        assert!(!net.forward(&x, &(&t + 50)).equal(&scores), "the noise level changes nothing");
    }
}

/// The slope's gradient by the weights through the kernels of f32 is that of ordinary operations in f64, and the
/// score's gradient by the image passes the forward diffusion: finite differences.
#[test]
fn gradients_pass_the_critic_twice_and_the_diffusion() {
    tch::manual_seed(6);
    let mut vars = nn::VarStore::new(Device::Cpu);
    let net = Discriminator::new(&vars.root(), [1, 8, 8], &[4, 4]);
    let (real, fake) = (Tensor::randn([4, 1, 8, 8], F32), Tensor::randn([4, 1, 8, 8], F32));
    let (t, mix) = (Tensor::from_slice(&[0i64, 3, 5, 10]), Tensor::rand([4], F32));
    let grads = |vars: &nn::VarStore, kind: Kind| {
        let critic = |x: &Tensor| net.forward(x, &t);
        let [real, fake, mix] = [&real, &fake, &mix].map(|x| x.to_kind(kind));
        let params = Params::of(vars);
        params.zero_grad();
        (gradient_penalty(critic, &real, &fake, &mix).unwrap() + r1(critic, &real).unwrap()).backward();
        params.named().map(|(n, p)| (n.to_owned(), p.grad())).filter(|(_, g)| g.defined()).collect::<Vec<_>>()
    };
    let fast = grads(&vars, Kind::Float);
    vars.double();
    let exact = grads(&vars, Kind::Double);
    assert_eq!(fast.len(), exact.len());
    fast.iter().zip(&exact).for_each(|((_, a), (_, b))| close(a, b, 1e-4));

    let length = DiffusionLength::new(DiffusionConfig::default(), Device::Cpu);
    let noise = Tensor::randn([4, 1, 8, 8], F64);
    let score = |x: &Tensor| net.forward(&length.diffuse(x, &t, &noise), &t).sum(Kind::Double);
    let x = real.to_kind(Kind::Double).set_requires_grad(true);
    let slope = &Tensor::run_backward(&[score(&x)], &[&x], false, false)[0];
    let (x, along) = (x.detach(), x.detach().randn_like());
    let h = 1e-5;
    let wanted = (score(&(&x + &along * h)) - score(&(&x - &along * h))).double_value(&[]) / (2.0 * h);
    let got = (slope * along).sum(Kind::Double).double_value(&[]);
    assert!((got - wanted).abs() < 1e-6 * (1.0 + wanted.abs()), "{got} {wanted}");
}

/// Always right drives the length up to its end, always wrong down to its start; on target it stays.
#[test]
fn the_length_follows_the_signs() {
    tch::manual_seed(1);
    // 4 batches of 10 of 400 images: a tenth of the way at each adjustment.
    let config = DiffusionConfig { ada_kimg: 0.4, ..DiffusionConfig::default() };
    let mut length = DiffusionLength::new(config, Device::Cpu);
    let mut lengths = |sign: f64, batches: usize| {
        let scores = Tensor::full([10], sign * 2.0, F32);
        let all: Vec<i64> = (0..batches)
            .map(|_| {
                length.observe(&scores);
                length.length()
            })
            .collect();
        let zeros = length.table().eq(0).sum(Kind::Int64).int64_value(&[]);
        assert_eq!(zeros, 32);
        assert!(length.table().max().int64_value(&[]) <= length.length());
        all
    };
    assert_eq!(lengths(1.0, 8), [10, 10, 10, 109, 109, 109, 109, 208]);
    assert_eq!(lengths(1.0, 60).last(), Some(&1000));
    assert_eq!(lengths(-1.0, 4).last(), Some(&901));
    assert_eq!(lengths(-1.0, 60).last(), Some(&10));
    assert_eq!(lengths(1.0, 4).last(), Some(&109));
    assert_eq!(lengths(0.0, 4).last(), Some(&10), "no sign is below the target");

    let on_target = DiffusionConfig { target: 0.5, interval: 1, ada_kimg: 0.1, ..config };
    let mut length = DiffusionLength::new(on_target, Device::Cpu);
    length.observe(&Tensor::from_slice(&[1.0f32, 1.0, 1.0, -1.0]));
    assert_eq!(length.length(), 10);
}

/// Drawn levels are clean half the time; the others are in proportion to `t`, or all alike.
#[test]
fn levels_have_their_frequencies() {
    tch::manual_seed(1);
    for draw in [LengthDraw::Priority, LengthDraw::Uniform] {
        let config = DiffusionConfig { draw, interval: 1, ..DiffusionConfig::default() };
        let mut length = DiffusionLength::new(config, Device::Cpu);
        let mut seen = [0.0f64; 11];
        let tables = 2000;
        for _ in 0..tables {
            length.observe(&Tensor::full([1], -1.0, F32));
            Vec::<i64>::try_from(length.table()).unwrap().into_iter().for_each(|t| seen[t as usize] += 1.0);
        }
        let n = f64::from(32 * tables);
        assert_eq!(seen[0], n);
        for (t, count) in seen.iter().enumerate().skip(1) {
            let p = if draw == LengthDraw::Priority { t as f64 / 55.0 } else { 0.1 };
            assert!((count / n - p).abs() < 4.5 * (p * (1.0 - p) / n).sqrt(), "{draw:?} {t}: {}", count / n);
        }
        let drawn = length.draw(20_000).eq(0).mean(Kind::Double).double_value(&[]);
        assert!((drawn - 0.5).abs() < 0.02, "{drawn}");
        let x = Tensor::zeros([20_000, 1, 1, 1], F32);
        let (clean, noise) = (Tensor::zeros([20_000], (Kind::Int64, Device::Cpu)), x.randn_like());
        close(&length.diffuse(&x, &clean, &noise), &x, 0.0);
        // The last step of the schedule: alpha_bar of a linear beta over 1000 steps is 4e-5.
        close(&length.diffuse(&x, &(clean + 1000), &noise), &(noise * 0.05), 1e-4);
    }
}

/// The generator's term leaves the critic without a gradient, the critic's step the model.
#[test]
fn gradients_stay_on_their_sides() {
    let (params, model) = two_heads();
    let mut penalty = adversarial(&params, json!({"channels": [4, 8], "rate": 0.05, "diffusion": {}}));
    let needs = adversarial(&params, json!({"channels": [1]}));
    let before = penalty.critic.params.snapshot();
    let largest =
        |params: &Params| params.grads().map(|g| g.abs().max().double_value(&[])).fold(0.0, f64::max);
    denoising_step(&model, &images(1), Clock { step: 0, total: 9 }, &needs, |view| {
        let value = penalty.penalty(view).unwrap();
        assert_eq!(largest(&params), 0.0, "the critic's step left a gradient in the model");
        assert!(!same(&before, &penalty.critic.params.snapshot()), "the critic stays");
        value.mean(Kind::Float).backward();
    });
    assert!(largest(&params) > 0.0, "the model has no gradient");
    assert_eq!(
        penalty.critic.params.grads().count(),
        0,
        "the generator's term left a gradient in the critic"
    );
    assert!(penalty.critic.params.tensors().all(Tensor::requires_grad), "the critic is frozen");
    let names: Vec<_> = penalty.terms().into_iter().map(|(name, value)| (name, value.dim())).collect();
    assert_eq!(names, ["critic_train", "critic_fake", "critic_held_out", "critic_length"].map(|n| (n, 0)));
}

/// Held-out images are looked at, and change nothing.
#[test]
fn held_out_images_change_nothing() {
    let (params, _) = two_heads();
    let (mut with, mut without) = (adversarial(&params, all()), adversarial(&params, all()));
    without.held_out = None;
    assert!(same(&run(&mut with, 0..4), &run(&mut without, 0..4)));
    assert_eq!((with.terms().len(), without.terms().len()), (4, 3));
}

/// A regulariser of period `k` counts `k` times when it is due.
#[test]
fn regularizers_of_the_critic_are_lazy() {
    let w = Tensor::from_slice(&[3.0, 4.0]);
    let critic = |x: &Tensor| x.flatten(1, -1).mv(&w);
    let (real, fake) = (Tensor::zeros([2, 2], F64), Tensor::zeros([2, 2], F64));
    let text =
        json!({"loss": "wasserstein", "gradient_penalty": {"every": 2}, "r1": {"gamma": 0.1, "every": 3}});
    let config: AdversarialConfig = from_value(text).unwrap();
    let at = |step| {
        let loss = config.critic_loss(step, critic, [&real, &fake], || Tensor::rand([2], F64)).unwrap().loss;
        loss.double_value(&[])
    };
    let (penalty, r1) = (2.0 * 10.0 * 16.0, 3.0 * 0.05 * 25.0);
    for (step, wanted) in [(0, penalty + r1), (1, 0.0), (2, penalty), (3, r1), (5, 0.0), (6, penalty + r1)] {
        assert!((at(step) - wanted).abs() < 1e-9, "{step}: {} {wanted}", at(step));
    }
}

#[test]
fn a_saved_critic_goes_on() {
    let (params, _) = two_heads();
    let make = || adversarial(&params, all());
    let mut straight = make();
    let whole = run(&mut straight, 0..9);
    let silent: Vec<bool> = whole.iter().map(|v| v.abs().max().double_value(&[]) == 0.0).collect();
    assert_eq!(silent, [true, false, true, false, true, false, true, false, true], "every second step");
    let (mut first, mut second) = (make(), make());
    run(&mut first, 0..5);
    check_persist(&first, &mut second);
    assert!(same(&whole[5..], &run(&mut second, 5..9)), "a resumed critic goes another way");
    let weights = |penalty: &Adversarial| penalty.state().tensors.into_values().collect::<Vec<_>>();
    assert!(same(&weights(&straight), &weights(&second)));
}

/// A critic that may look at the same images again and again comes to tell them from the estimates.
#[test]
fn the_critic_learns() {
    let (params, _) = two_heads();
    for loss in [
        json!({"loss": "hinge"}),
        json!({"loss": "non_saturating", "r1": {"gamma": 0.01, "every": 4}, "rate": 0.1}),
        json!({"loss": "wasserstein", "gradient_penalty": {}, "rate": 0.003}),
    ] {
        let mut text = json!({"channels": [8, 8], "rate": 0.02});
        text.as_object_mut().unwrap().extend(loss.as_object().unwrap().clone());
        let mut penalty = adversarial(&params, text);
        run(&mut penalty, 0..60);
        let of =
            |name: &str| penalty.terms().into_iter().find(|(n, _)| *n == name).unwrap().1.double_value(&[]);
        assert!(of("critic_train") > of("critic_fake") + 0.3, "{loss} {:?}", penalty.terms());
    }
}
