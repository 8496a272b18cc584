//! Laws of every technique, and what each is for.

use crate::{Averaged, Clip, EmaDecay, Gaussian};
use heldout_core::{
    Batch, BatchSource, Clock, Curve, Evaluation, Gradient, Objective, Params, Persist, Result, Update,
};
use heldout_testkit::{
    Blobs, Mlp, SquaredError, check_curve, check_gradient, check_noise_source, check_update, close, same,
};
use tch::{Device, Tensor, nn};

#[derive(Debug)]
struct Plain;
impl Persist for Plain {}
impl Gradient for Plain {
    fn gradient(&mut self, p: &Params, o: &mut dyn Objective, b: &Batch, c: Clock) -> Result<Evaluation> {
        p.zero_grad();
        let evaluation = o.evaluate(b, c)?;
        evaluation.loss.f_backward()?;
        Ok(evaluation)
    }
}

/// Gradient descent without state.
#[derive(Debug)]
struct Descent(Params, Plain);
impl Persist for Descent {}
impl Update for Descent {
    fn update(&mut self, o: &mut dyn Objective, b: &Batch, c: Clock) -> Result<Evaluation> {
        let evaluation = self.1.gradient(&self.0, o, b, c)?;
        tch::no_grad(|| self.0.tensors().for_each(|p| drop(p.shallow_clone().g_sub_(&(p.grad() * 0.1)))));
        Ok(evaluation)
    }
    fn params(&self) -> &Params {
        &self.0
    }
}

fn model() -> (Params, SquaredError) {
    tch::manual_seed(1);
    let vars = nn::VarStore::new(Device::Cpu);
    let objective = SquaredError(Mlp::new(&vars.root(), 2));
    (Params::of(&vars), objective)
}

fn batch() -> Batch {
    Blobs { n: 64, seed: 2 }.batch(Clock { step: 0, total: 1 }).unwrap()
}

fn norm(grads: &[Tensor]) -> f64 {
    Tensor::stack(&grads.iter().map(|g| g.norm()).collect::<Vec<_>>(), 0).norm().double_value(&[])
}

#[test]
fn clipping_shortens_and_never_turns() {
    let (params, mut objective) = model();
    let batch = batch();
    let plain = check_gradient(&mut Plain, &mut objective, &params, &batch);
    let free = check_gradient(&mut Clip::new(Plain, 1e9).unwrap(), &mut objective, &params, &batch);
    assert!(same(&plain, &free), "a long leash changes nothing");
    let clipped = check_gradient(&mut Clip::new(Plain, 1e-3).unwrap(), &mut objective, &params, &batch);
    let ratio = 1e-3 / norm(&plain);
    assert!(ratio < 1.0 && (norm(&clipped) - 1e-3).abs() < 1e-6);
    clipped.iter().zip(&plain).for_each(|(c, p)| close(c, &(p * ratio), 1e-6));
    assert!(Clip::new(Plain, 0.0).is_err());
}

#[test]
fn averages_keep_the_laws_of_an_update() {
    let make = || {
        let (params, objective) = model();
        (Averaged::new(Descent(params, Plain), EmaDecay::new(0.9).unwrap()), objective)
    };
    check_update(make, &batch());
}

/// The average is the textbook recursion, and the live weights come back after a look at it.
#[test]
fn the_average_is_the_recursion() {
    let (params, mut objective) = model();
    let decay = EmaDecay::new(0.99).unwrap();
    let mut expected = params.snapshot();
    let mut averaged = Averaged::new(Descent(params, Plain), decay);
    for step in 0..6 {
        let clock = Clock { step, total: 6 };
        averaged.update(&mut objective, &batch(), clock).unwrap();
        let d = (1.0 + step as f64) / (10.0 + step as f64);
        let live = averaged.params().snapshot();
        expected = expected.iter().zip(&live).map(|(e, w)| e * d + w * (1.0 - d)).collect();
    }
    let live = averaged.params().snapshot();
    {
        let _guard = averaged.eval_weights();
        expected.iter().zip(averaged.params().tensors()).for_each(|(e, w)| close(e, w, 1e-6));
        assert!(!same(&live, &averaged.params().snapshot()));
    }
    assert!(same(&live, &averaged.params().snapshot()), "the live weights come back");
}

#[test]
fn the_decay_warms_up() {
    let decay = EmaDecay::new(0.95).unwrap();
    check_curve(&decay, 500);
    assert_eq!(decay.at(Clock { step: 400, total: 500 }), 0.95);
    assert!(EmaDecay::new(1.0).is_err());
}

#[test]
fn gaussian_noise_keeps_the_law() {
    check_noise_source(&mut Gaussian);
}
