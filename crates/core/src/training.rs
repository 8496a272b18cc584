//! The spine of training: objective, gradient, update, observer.

use crate::persists_inner;
use crate::{
    Batch, Clock, Cond, Curve, Denoiser, EvalWeights, Marginal, Noised, Params, Persist, Result, Site,
};
use std::fmt::Debug;
use tch::{Kind, Tensor};

/// Weight of the loss by noise level.
///
/// Law: finite and not negative.
pub trait Weighting: Debug {
    /// Weight of `|x_start_hat - x_start|^2`, `[B]`, f64: the same for every parameterisation.
    fn weight(&self, marginal: &Marginal) -> Tensor;
    /// What a weighting that learns adds to the weighted loss, `[B]`, f64: the price of a small weight.
    fn regularizer(&self, _marginal: &Marginal) -> Option<Tensor> {
        None
    }
}

/// What a penalty may look at.
pub trait View {
    /// Where the run stands.
    fn clock(&self) -> Clock;
    /// A penalty of nothing: zeros, `[B]`.
    fn zeros(&self) -> Tensor;
}

/// The view of a denoising step.
#[derive(Debug)]
pub struct Denoising<'a> {
    /// The model, for penalties that make forward passes of their own.
    pub denoiser: &'a dyn Denoiser,
    /// The training points.
    pub noised: &'a Noised,
    /// `[B, C, H, W]`, with its graph.
    pub x_start_hat: &'a Tensor,
    /// What the network should have answered, `F*`, `[B, C, H, W]`.
    pub target: &'a Tensor,
    /// Weight of each row's mean squared error, `[B]`, f32: by noise level and by importance.
    pub weight: &'a Tensor,
    /// The weighted loss of each row, `[B]`, f32, with its graph.
    pub loss: &'a Tensor,
    /// `[B, C, H, W]` with its graph, of a model that learns its variance: see [`Posterior::log_variance`].
    ///
    /// [`Posterior::log_variance`]: crate::Posterior::log_variance
    pub variance: Option<&'a Tensor>,
    /// The activations that penalties asked for.
    pub taps: &'a [(Site, Tensor)],
    /// Conditions.
    pub cond: &'a Cond,
    /// Where the run stands.
    pub clock: Clock,
}

impl View for Denoising<'_> {
    fn clock(&self) -> Clock {
        self.clock
    }

    fn zeros(&self) -> Tensor {
        self.noised.t.zeros_like().to_kind(Kind::Float)
    }
}

/// A per-sample term of the loss. `V` is what it looks at: [`Denoising`], or an autoencoder's reconstruction.
pub trait Penalty<V>: Debug + Persist {
    /// As in logs.
    fn name(&self) -> &'static str;
    /// `[B]`. May change its own state, nothing else.
    fn penalty(&mut self, view: &V) -> Result<Tensor>;
    /// Activations that it needs.
    fn taps(&self) -> Vec<Site> {
        Vec::new()
    }
    /// Whether it differentiates by `x_t`, which then is part of the graph.
    fn differentiates_input(&self) -> bool {
        false
    }
    /// Further scalars of the last call for the log, detached.
    fn terms(&self) -> Vec<(&'static str, Tensor)> {
        Vec::new()
    }
}

impl<V, P: Penalty<V> + ?Sized> Penalty<V> for Box<P> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn penalty(&mut self, view: &V) -> Result<Tensor> {
        (**self).penalty(view)
    }

    fn taps(&self) -> Vec<Site> {
        (**self).taps()
    }

    fn differentiates_input(&self) -> bool {
        (**self).differentiates_input()
    }

    fn terms(&self) -> Vec<(&'static str, Tensor)> {
        (**self).terms()
    }
}

/// A penalty on a denoising step.
pub type DenoisingPenalty = Box<dyn for<'a> Penalty<Denoising<'a>>>;

/// `weight(clock) * inner`; where the weight is 0, `inner` is not asked, so that it costs and draws nothing.
#[derive(Debug)]
pub struct Scaled<P, C> {
    /// The penalty.
    pub inner: P,
    /// Its weight over the run.
    pub weight: C,
}

persists_inner!(Scaled<P, C>);

impl<V: View, P: Penalty<V>, C: Curve> Penalty<V> for Scaled<P, C> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn penalty(&mut self, view: &V) -> Result<Tensor> {
        match self.weight.at(view.clock()) {
            0.0 => Ok(view.zeros()),
            weight => Ok(weight * self.inner.penalty(view)?),
        }
    }

    fn taps(&self) -> Vec<Site> {
        self.inner.taps()
    }

    fn differentiates_input(&self) -> bool {
        self.inner.differentiates_input()
    }

    fn terms(&self) -> Vec<(&'static str, Tensor)> {
        self.inner.terms()
    }
}

/// Lazy regularisation, Karras et al. 2020 (StyleGAN2), section 4.1: `k * inner` on every `k`th step.
#[derive(Debug)]
pub struct Every<P> {
    /// The period, at least 1.
    pub k: u64,
    /// The penalty.
    pub inner: P,
}

persists_inner!(Every<P>);

impl<V: View, P: Penalty<V>> Penalty<V> for Every<P> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn penalty(&mut self, view: &V) -> Result<Tensor> {
        if view.clock().step.is_multiple_of(self.k) {
            Ok(self.inner.penalty(view)? * self.k as f64)
        } else {
            Ok(view.zeros())
        }
    }

    fn taps(&self) -> Vec<Site> {
        self.inner.taps()
    }

    fn differentiates_input(&self) -> bool {
        self.inner.differentiates_input()
    }

    fn terms(&self) -> Vec<(&'static str, Tensor)> {
        self.inner.terms()
    }
}

/// The loss of every example, for techniques that treat noise levels apart.
#[derive(Debug)]
pub struct Rows {
    /// `[B]`, f32, with its graph.
    pub loss: Tensor,
    /// Noise level of each, `ln(alpha^2 / sigma^2)`, `[B]`, f64.
    pub log_snr: Tensor,
}

/// A loss and what it is made of.
#[derive(Debug)]
pub struct Evaluation {
    /// Scalar, with its graph.
    pub loss: Tensor,
    /// What `loss` is the mean of, from an objective that knows.
    pub rows: Option<Rows>,
    /// Named scalars for the log, detached, on the model's device.
    pub terms: Vec<(&'static str, Tensor)>,
}

/// Batch in, scalar out.
///
/// Law: touches no weight, no gradient, no optimiser of the model; the same after the same seed.
pub trait Objective: Debug + Persist {
    /// The loss of one batch, drawn with libtorch's generator.
    fn evaluate(&mut self, batch: &Batch, clock: Clock) -> Result<Evaluation>;
}

/// Leaves a gradient in `.grad` of every parameter.
///
/// Law: leaves the weights as they were, bit for bit.
pub trait Gradient: Debug + Persist {
    /// Evaluates the objective once or several times.
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation>;
}

impl<G: Gradient + ?Sized> Gradient for Box<G> {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        (**self).gradient(params, objective, batch, clock)
    }
}

/// Moves tensors along their gradients.
///
/// Law: saved and loaded into a fresh one, it goes on bit for bit.
pub trait Optimizer: Debug + Persist {
    /// One step along `.grad` at this learning rate; a parameter without a gradient stays.
    fn step(&mut self, params: &Params, rate: f64);
}

/// Moves the weights by one step.
///
/// Law: saved and loaded into a fresh one, it goes on bit for bit.
pub trait Update: Debug + Persist {
    /// One step.
    fn update(&mut self, objective: &mut dyn Objective, batch: &Batch, clock: Clock) -> Result<Evaluation>;
    /// What it moves.
    fn params(&self) -> &Params;
    /// The averages of the weights that it keeps, from the innermost to the outermost.
    fn averages(&self) -> Vec<Average<'_>> {
        Vec::new()
    }
    /// Puts the outermost average in the place of the weights, to be evaluated; `None` where the live weights are the ones
    /// to evaluate.
    fn eval_weights(&self) -> Option<EvalWeights<'_>> {
        self.averages().last().map(|average| EvalWeights::swap_in(self.params(), average.weights))
    }
}

/// Weights that are kept beside the live ones.
#[derive(Debug, Clone, Copy)]
pub struct Average<'a> {
    /// As in records and checkpoints; different for every average of a run.
    pub name: &'a str,
    /// In the order of the parameters.
    pub weights: &'a [Tensor],
}

impl<U: Update + ?Sized> Update for Box<U> {
    fn update(&mut self, objective: &mut dyn Objective, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        (**self).update(objective, batch, clock)
    }

    fn params(&self) -> &Params {
        (**self).params()
    }

    fn averages(&self) -> Vec<Average<'_>> {
        (**self).averages()
    }

    fn eval_weights(&self) -> Option<EvalWeights<'_>> {
        (**self).eval_weights()
    }
}

/// Whether to go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flow {
    /// The next step, please.
    Continue,
    /// No further step, and why.
    Stop(String),
}

/// Logs, validates, watches for copies, stops early.
///
/// Law: sees everything, changes nothing of the run.
pub trait Observer: Debug + Persist {
    /// Names its state in checkpoints; different for every observer of a run.
    fn name(&self) -> &'static str;
    /// What says which checkpoint is best, and by which name; lower is better.
    fn score(&self) -> Option<(&'static str, f64)> {
        None
    }
    /// Called after step `clock.step`, when `clock.step + 1` steps are done; after `clock.total` of them the run ends, be
    /// that before the last step that its curves know.
    fn after_step(&mut self, clock: Clock, evaluation: &Evaluation, update: &dyn Update) -> Result<Flow>;
}
