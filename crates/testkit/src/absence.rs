//! At strength 0 a technique is as if it were not there, to the last bit, and what is drawn after it is the same.

use crate::same;
use heldout_core::{
    Augment, Batch, Clock, Gradient, NoiseDraw, NoiseSource, Objective, Params, TimeSampler, Update,
};
use tch::{Device, Kind, Tensor};

const CLOCK: Clock = Clock { step: 3, total: 10 };

/// What `run` gives, and what is drawn after it.
fn seeded<T>(run: impl FnOnce() -> T) -> (T, Tensor) {
    tch::manual_seed(11);
    let made = run();
    (made, Tensor::rand([4], (Kind::Float, Device::Cpu)))
}

#[track_caller]
fn same_draws(a: &Tensor, b: &Tensor) {
    assert!(a.equal(b), "a technique of strength 0 draws from the generator");
}

/// [`Augment`] at strength 0.
#[track_caller]
pub fn check_absent_augment(at_zero: &mut dyn Augment, batch: &Batch) {
    let (with, after) = seeded(|| at_zero.augment(batch.shallow_clone(), CLOCK));
    let ((), nothing) = seeded(|| ());
    assert!(with.x_start.equal(&batch.x_start), "an augmentation of strength 0 changes images");
    for ((name, with), (_, without)) in with.cond.fields().into_iter().zip(batch.cond.fields()) {
        let same = match (with, without) {
            (Some(with), Some(without)) => with.equal(without),
            (with, without) => with.is_none() && without.is_none(),
        };
        assert!(same, "an augmentation of strength 0 changes {name}");
    }
    same_draws(&after, &nothing);
}

/// A [`NoiseSource`] of strength 0 beside the one that it is made of.
#[track_caller]
pub fn check_absent_noise(at_zero: &mut dyn NoiseSource, inner: &mut dyn NoiseSource) {
    let x = Tensor::linspace(-1.0, 1.0, 6 * 3 * 8 * 8, (Kind::Float, Device::Cpu)).view([6, 3, 8, 8]);
    let t = Tensor::linspace(0.1, 0.9, 6, (Kind::Double, Device::Cpu));
    let (with, after) = seeded(|| at_zero.draw(&x, &t, CLOCK));
    let (without, nothing) = seeded(|| inner.draw(&x, &t, CLOCK));
    let tensors = |d: NoiseDraw| [d.applied, d.target];
    assert!(same(&tensors(with), &tensors(without)), "a source of strength 0 changes the noise");
    same_draws(&after, &nothing);
}

/// A [`TimeSampler`] of strength 0 beside the one that it is made of.
#[track_caller]
pub fn check_absent_times(at_zero: &mut dyn TimeSampler, inner: &mut dyn TimeSampler) {
    let (with, after) = seeded(|| at_zero.sample(64, CLOCK, Device::Cpu));
    let (without, nothing) = seeded(|| inner.sample(64, CLOCK, Device::Cpu));
    assert!(with.t.equal(&without.t) && with.weight.equal(&without.weight), "strength 0 changes the times");
    same_draws(&after, &nothing);
}

/// A [`Gradient`] of strength 0 beside the one that it is made of.
#[track_caller]
pub fn check_absent_gradient(
    at_zero: &mut dyn Gradient,
    inner: &mut dyn Gradient,
    objective: &mut dyn Objective,
    params: &Params,
    batch: &Batch,
) {
    let mut of = |gradient: &mut dyn Gradient| {
        let (evaluation, after) = seeded(|| gradient.gradient(params, objective, batch, CLOCK).unwrap());
        let grads = params.grads().map(|g| g.copy()).collect::<Vec<_>>();
        (grads, evaluation.loss.detach(), after)
    };
    let (with, loss, after) = of(at_zero);
    let (without, plain, nothing) = of(inner);
    assert!(same(&with, &without) && loss.equal(&plain), "strength 0 changes the gradient");
    same_draws(&after, &nothing);
}

/// An [`Update`] of strength 0 beside the one that it is made of: eight steps of each, with freshly initialised weights.
#[track_caller]
pub fn check_absent_update<A: Update, B: Update, O: Objective>(
    at_zero: impl FnOnce() -> (A, O),
    inner: impl FnOnce() -> (B, O),
    batch: &Batch,
) {
    fn run(update: &mut dyn Update, objective: &mut dyn Objective, batch: &Batch) -> (Vec<Tensor>, Tensor) {
        for step in 0..8 {
            tch::manual_seed(step as i64);
            update.update(objective, batch, Clock { step, total: 8 }).unwrap();
        }
        let after = Tensor::rand([4], (Kind::Float, Device::Cpu));
        let _guard = update.eval_weights();
        (update.params().snapshot(), after)
    }
    let (mut with, mut objective) = at_zero();
    let (with, after) = run(&mut with, &mut objective, batch);
    let (mut without, mut objective) = inner();
    let (without, nothing) = run(&mut without, &mut objective, batch);
    assert!(same(&with, &without), "strength 0 changes the weights");
    same_draws(&after, &nothing);
}
