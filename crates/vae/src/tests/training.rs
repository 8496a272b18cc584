//! The loss of an autoencoder, its critic and the alignment of its latents.

use super::{randn, small};
use crate::{
    AutoencoderKl, AutoencoderObjective, AutoencoderObjectiveConfig, FrozenMaps, LatentAlignmentConfig,
    LatentModel, ObjectiveParts, PatchAdversaryConfig, PatchCritic, Perceptual, PixelLoss,
};
use heldout_core::{Batch, Clock, Cond, Objective, Optimizer, Params, Persist, State};
use heldout_testkit::{check_objective, check_persist, close, same};
use std::rc::Rc;
use tch::{Device, Kind, Tensor, nn};

const CLOCK: Clock = Clock { step: 5, total: 10 };
const IMAGES: [i64; 3] = [3, 16, 16];

/// Plain gradient descent.
#[derive(Debug, Default)]
struct Descent {
    steps: u64,
}

impl Persist for Descent {
    fn state(&self) -> State {
        let mut state = State::default();
        state.set_count("steps", self.steps);
        state
    }

    fn load_state(&mut self, mut state: State) -> heldout_core::Result<()> {
        self.steps = state.count("steps")?;
        Ok(())
    }
}

impl Optimizer for Descent {
    fn step(&mut self, params: &Params, rate: f64) {
        self.steps += 1;
        tch::no_grad(|| params.tensors().for_each(|p| drop(p.shallow_clone().f_sub_(&(p.grad() * rate)))));
    }
}

struct Parts {
    vars: nn::VarStore,
    model: Rc<AutoencoderKl>,
}

fn parts() -> Parts {
    let (vars, model) = small();
    Parts { vars, model: Rc::new(model) }
}

impl Parts {
    fn objective(&self, config: &AutoencoderObjectiveConfig) -> AutoencoderObjective {
        self.try_objective(config).unwrap()
    }

    fn try_objective(
        &self,
        config: &AutoencoderObjectiveConfig,
    ) -> heldout_core::Result<AutoencoderObjective> {
        // What is trained beside the model, once for each objective of a test.
        let vars = self.vars.root() / format!("objective{}", self.vars.len());
        config.build(ObjectiveParts {
            model: Rc::clone(&self.model) as Rc<dyn LatentModel>,
            images: IMAGES,
            vars: &vars,
            seed: 1,
            optimizer: &|_| Ok(Box::<Descent>::default()),
            perceptual: Some(Perceptual::new(|a, b| Ok(heldout_core::mean_flat(&(a - b).square())))),
            frozen: Some(FrozenMaps::new(12, |x| Ok(x.pixel_unshuffle(2)))),
        })
    }
}

fn batch() -> Batch {
    tch::manual_seed(9);
    Batch::new(randn(&[3, 3, 16, 16]).tanh(), Cond::default())
}

fn adversary() -> PatchAdversaryConfig {
    PatchAdversaryConfig { start_step: 5, layers: 2, channels: 4, weight: 0.5, rate: 0.1 }
}

fn everything() -> AutoencoderObjectiveConfig {
    AutoencoderObjectiveConfig {
        perceptual_weight: 1.0,
        adversary: Some(adversary()),
        alignment: Some(LatentAlignmentConfig { cosine_margin: 0.0, gram_margin: 0.0, weight: 0.1 }),
        ..AutoencoderObjectiveConfig::default()
    }
}

#[test]
fn the_objective_keeps_its_laws() {
    let parts = parts();
    let before_start = PatchAdversaryConfig { start_step: 1_000_000, ..adversary() };
    let config = AutoencoderObjectiveConfig { adversary: Some(before_start), ..everything() };
    let mut objective = parts.objective(&config);
    check_objective(&mut objective, &Params::of(&parts.vars), &batch());
    let mut fresh = parts.objective(&config);
    check_persist(&objective, &mut fresh);
}

/// The loss is what its doc says, from what the log says.
#[test]
fn the_loss_is_the_sum_of_its_terms() {
    let parts = parts();
    let config = AutoencoderObjectiveConfig {
        pixels: PixelLoss::L2,
        perceptual_weight: 2.0,
        kl_weight: 0.01,
        ..AutoencoderObjectiveConfig::default()
    };
    let mut objective = parts.objective(&config);
    let mut v =
        Params::of(&parts.vars).named().find(|(n, _)| n.contains("log_variance")).unwrap().1.shallow_clone();
    tch::no_grad(|| drop(v.fill_(-0.5)));
    let batch = batch();
    tch::manual_seed(1);
    let x_hat = parts.model.reconstruct(&batch.x_start).x_hat;
    tch::manual_seed(1);
    let evaluation = objective.evaluate(&batch, CLOCK).unwrap();
    let term = |name: &str| evaluation.terms.iter().find(|(n, _)| *n == name).unwrap().1.double_value(&[]);
    let squared = (x_hat - &batch.x_start).square().mean(Kind::Float).double_value(&[]);
    assert!((term("reconstruction") - squared).abs() < 1e-6);
    assert!((term("perceptual") - squared / 4.0).abs() < 1e-6); // images in [0, 1]
    let expected = (squared * 1.5) * 0.5f64.exp() - 0.5 + 0.01 * term("kl") / 768.0;
    assert!((evaluation.loss.double_value(&[]) - expected).abs() < 1e-5);
    evaluation.loss.backward();
    assert!(v.grad().abs().double_value(&[]) > 0.0, "the log variance is not trained");
}

fn terms(evaluation: &heldout_core::Evaluation) -> Vec<&'static str> {
    evaluation.terms.iter().map(|(name, _)| *name).collect()
}

/// The critic moves, the model does not; the term's pull at the decoder is its weight times that of the rest.
#[test]
fn the_critic_is_balanced_and_leaves_the_model_alone() {
    let parts = parts();
    let config =
        AutoencoderObjectiveConfig { adversary: Some(adversary()), ..AutoencoderObjectiveConfig::default() };
    let plain = AutoencoderObjectiveConfig::default();
    let (mut with, mut without) = (parts.objective(&config), parts.objective(&plain));
    let (params, batch) = (Params::of(&parts.vars), batch());
    params.zero_grad();
    let (before, critic) = (params.snapshot(), with.state());
    let pull = |objective: &mut AutoencoderObjective, clock: Clock| {
        tch::manual_seed(2);
        let evaluation = objective.evaluate(&batch, clock).unwrap();
        assert!(params.grads().all(|g| g.abs().max().double_value(&[]) == 0.0), "a gradient was left");
        evaluation.loss.backward();
        let grad = parts.model.last_layers().decoder.grad().copy();
        params.zero_grad();
        (evaluation, grad)
    };
    let (early, early_grad) = pull(&mut with, Clock { step: 4, total: 10 });
    let (_, plain_grad) = pull(&mut without, CLOCK);
    assert!(early_grad.equal(&plain_grad) && !terms(&early).contains(&"adversarial"));
    let (late, grad) = pull(&mut with, CLOCK);
    assert!(terms(&late).contains(&"critic_real") && terms(&late).contains(&"adversarial_balance"));
    let share = ((grad - &plain_grad).norm() / plain_grad.norm()).double_value(&[]);
    assert!((share - 0.5).abs() < 0.05, "the critic pulls {share} times as strongly");
    assert!(same(&before, &params.snapshot()), "the model was moved");
    let moved = with.state();
    assert!(critic.tensors.iter().any(|(n, t)| !t.equal(&moved.tensors[n])), "the critic did not learn");

    // Without gradients it is looked at, and nothing moves.
    let _guard = tch::no_grad_guard();
    with.evaluate(&batch, CLOCK).unwrap();
    let looked = with.state();
    assert!(moved.tensors.iter().all(|(n, t)| t.equal(&looked.tensors[n])));
}

/// Saved and loaded, the objective goes on bit for bit.
#[test]
fn a_loaded_critic_goes_on() {
    let parts = parts();
    let config = AutoencoderObjectiveConfig {
        adversary: Some(adversary()),
        learn_log_variance: false,
        ..AutoencoderObjectiveConfig::default()
    };
    let (mut old, mut fresh) = (parts.objective(&config), parts.objective(&config));
    let batch = batch();
    let run = |objective: &mut AutoencoderObjective, seed: i64| {
        tch::manual_seed(seed);
        objective.evaluate(&batch, CLOCK).unwrap().loss
    };
    let _ = run(&mut old, 1);
    check_persist(&old, &mut fresh);
    assert!(run(&mut old, 2).equal(&run(&mut fresh, 2)));
    assert!(run(&mut old, 3).equal(&run(&mut fresh, 3)));
}

/// A critic tells noise from flat images after some steps: its scores part.
#[test]
fn the_critic_learns_to_tell() {
    let config = PatchAdversaryConfig { start_step: 0, ..adversary() };
    let optimizer = |_: &Params| Ok(Box::<Descent>::default() as Box<dyn Optimizer>);
    let mut critic = config.build(IMAGES, 3, Device::Cpu, &optimizer).unwrap();
    tch::manual_seed(6);
    let (real, weight) =
        (randn(&[8, 3, 16, 16]), Tensor::ones([1], (Kind::Float, Device::Cpu)).set_requires_grad(true));
    let mut gap = 0.0;
    for _ in 0..30 {
        let fake = randn(&[8, 3, 1, 1]).expand([8, 3, 16, 16], false) * &weight;
        let loss = fake.square().mean(Kind::Float);
        let _ = critic.term([&real, &fake], &loss, &weight, CLOCK).unwrap().unwrap();
        let score = |name: &str| critic.terms().find(|(n, _)| *n == name).unwrap().1.double_value(&[]);
        gap = score("critic_real") - score("critic_fake");
    }
    assert!(gap > 1.0, "scores of real and flat images differ by {gap}");
}

#[test]
fn no_row_of_the_critic_sees_another() {
    let vars = nn::VarStore::new(Device::Cpu);
    let critic = PatchCritic::new(&vars.root(), 3, 3, 8);
    let x = randn(&[3, 3, 32, 32]);
    let scores = critic.forward(&x);
    assert_eq!(scores.size(), [3, 1, 2, 2]);
    close(&critic.forward(&x.narrow(0, 1, 1)), &scores.narrow(0, 1, 1), 1e-5);
}

/// 0 where the latents are the features; else as the equations say, by hand.
#[test]
fn alignment_is_that_of_its_equations() {
    let vars = nn::VarStore::new(Device::Cpu);
    let config = LatentAlignmentConfig { weight: 1.0, cosine_margin: 0.1, gram_margin: 0.2 };
    let frozen = FrozenMaps::new(3, |x| Ok(x.avg_pool2d([2, 2], [2, 2], [0, 0], false, true, None::<i64>)));
    let alignment = config.build(&vars.root(), 3, frozen.clone()).unwrap();
    tch::no_grad(|| {
        vars.variables()["weight"].shallow_clone().copy_(&Tensor::eye(3, (Kind::Float, Device::Cpu)));
    });
    tch::manual_seed(8);
    let x = randn(&[2, 3, 4, 4]);
    let maps = frozen.maps(&x).unwrap();
    let same = alignment.parts(&(&maps * 2.5), &x).unwrap();
    close(&(same.cosine + same.gram), &Tensor::zeros([2], (Kind::Float, Device::Cpu)), 1e-6);

    let z = randn(&[2, 3, 2, 2]);
    let found = alignment.parts(&z, &x).unwrap();
    let place = |t: &Tensor, b: i64, i: i64| t.get(b).flatten(1, -1).select(1, i);
    let cosine = |a: &Tensor, b: &Tensor| (a.dot(b) / (a.norm() * b.norm())).double_value(&[]);
    for b in 0..2 {
        let (mut cosines, mut grams) = (0.0, 0.0);
        for i in 0..4 {
            cosines += (1.0 - 0.1 - cosine(&place(&z, b, i), &place(&maps, b, i))).max(0.0) / 4.0;
            for j in 0..4 {
                let pair = |t: &Tensor| cosine(&place(t, b, i), &place(t, b, j));
                grams += ((pair(&z) - pair(&maps)).abs() - 0.2).max(0.0) / 16.0;
            }
        }
        assert!((found.cosine.double_value(&[b]) - cosines).abs() < 1e-5);
        assert!((found.gram.double_value(&[b]) - grams).abs() < 1e-5);
    }
}

/// Trained for some steps, the autoencoder reconstructs better.
#[test]
fn training_lowers_the_reconstruction_error() {
    let parts = parts();
    let mut objective = parts.objective(&AutoencoderObjectiveConfig::default());
    let (params, batch) = (Params::of(&parts.vars), batch());
    let mut descent = Descent::default();
    let mut error = |steps: usize| {
        let mut last = 0.0;
        for _ in 0..steps {
            tch::manual_seed(0);
            let evaluation = objective.evaluate(&batch, CLOCK).unwrap();
            params.zero_grad();
            evaluation.loss.backward();
            descent.step(&params, 0.02);
            last = evaluation.terms[0].1.double_value(&[]);
        }
        last
    };
    let (first, last) = (error(1), error(40));
    assert!(last < 0.9 * first, "{first} to {last}");
}

#[test]
fn impossible_settings_are_named() {
    let parts = parts();
    let error = |config: AutoencoderObjectiveConfig| parts.try_objective(&config).unwrap_err().to_string();
    let plain = AutoencoderObjectiveConfig::default;
    let with = |a: PatchAdversaryConfig| AutoencoderObjectiveConfig { adversary: Some(a), ..plain() };
    let large = error(with(PatchAdversaryConfig { layers: 3, ..adversary() }));
    assert!(large.starts_with("adversary.layers: 3 need images of at least 24 pixels"), "{large}");
    assert!(error(with(PatchAdversaryConfig { rate: 0.0, ..adversary() })).starts_with("adversary.rate: 0"));
    assert!(error(AutoencoderObjectiveConfig { kl_weight: -1.0, ..plain() }).starts_with("kl_weight: -1"));
    let margin = LatentAlignmentConfig { gram_margin: 2.5, ..LatentAlignmentConfig::default() };
    let margin = AutoencoderObjectiveConfig { alignment: Some(margin), ..plain() };
    assert!(error(margin).starts_with("alignment.gram_margin: 2.5"));
    let config = AutoencoderObjectiveConfig { perceptual_weight: 1.0, ..plain() };
    let missing = config.build(ObjectiveParts {
        model: Rc::clone(&parts.model) as Rc<dyn LatentModel>,
        images: IMAGES,
        vars: &parts.vars.root(),
        seed: 0,
        optimizer: &|_| Ok(Box::<Descent>::default()),
        perceptual: None,
        frozen: None,
    });
    assert!(missing.unwrap_err().to_string().starts_with("perceptual_weight: 1, but no network"));
}
