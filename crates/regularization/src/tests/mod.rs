//! Laws of every technique, and what each is for.

mod augment;
mod corruption;
mod critic;
mod gradient;
mod noise;
mod non_leaky;
mod parts;
mod penalty;
mod text_alignment;
mod times;
mod weights;

use heldout_core::{
    Batch, BatchSource, Clock, Cond, Evaluation, Gradient, Objective, Params, Persist, Preconditioned,
    Result, Rows, Update,
};
use heldout_testkit::{Blobs, Mlp, SquaredError, TrigSchedule, VPrediction};
use tch::{Device, Kind, Tensor, nn};

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
struct Descent<G = Plain>(Params, G);
impl<G> Persist for Descent<G> {}
impl<G: Gradient> Update for Descent<G> {
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

/// What a batch's rows lose, and their noise levels.
type RowLosses = Box<dyn Fn(&Batch) -> (Tensor, Tensor)>;

/// An objective of given rows.
struct Scripted(RowLosses);

impl std::fmt::Debug for Scripted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Scripted")
    }
}

impl Persist for Scripted {}

impl Objective for Scripted {
    fn evaluate(&mut self, batch: &Batch, _: Clock) -> Result<Evaluation> {
        let (loss, log_snr) = (self.0)(batch);
        let rows = Some(Rows { loss: loss.shallow_clone(), log_snr });
        Ok(Evaluation { loss: loss.mean(loss.kind()), rows, terms: Vec::new() })
    }
}

/// A small denoiser of points in the plane, `[n, 2, 1, 1]`, with its weights.
fn denoiser() -> (Params, Preconditioned) {
    tch::manual_seed(1);
    let vars = nn::VarStore::new(Device::Cpu);
    let backbone = Box::new(Mlp::new(&vars.root(), 2));
    let model = Preconditioned {
        backbone,
        parameterization: Box::new(VPrediction),
        schedule: Box::new(TrigSchedule),
    };
    (Params::of(&vars), model)
}

/// Six random images of `channels`, with labels 0, 1, 2.
fn images(channels: i64) -> Batch {
    tch::manual_seed(3);
    let x = Tensor::rand([6, channels, 8, 8], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    Batch::new(x, Cond::of_labels(Tensor::from_slice(&[0i64, 1, 2, 0, 1, 2])))
}
