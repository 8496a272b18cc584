//! Model-agnostic meta-learning.

use super::accumulate::{detached, mean};
use crate::draws::Draws;
use crate::tasks::{Task, TasksConfig};
use heldout_core::{Batch, Clock, Error, Evaluation, Gradient, Objective, Params, Persist, Result};
use heldout_torch_ext::{add_, scale_, set_grads};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How much of the gradient through the inner steps is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum MamlOrder {
    /// As if the inner steps did not depend on the weights that they start from.
    First,
    /// All of it, by one Hessian-vector product for each inner step.
    Second,
}

/// Settings of [`Maml`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MamlConfig {
    /// The tasks, with a query.
    pub tasks: TasksConfig,
    /// Inner steps on the support of a task.
    pub inner_steps: u64,
    /// Their learning rate.
    pub inner_rate: f64,
    /// Of the gradient.
    pub order: MamlOrder,
}

impl MamlConfig {
    /// Which field cannot be honoured with batches of `batch_size`.
    pub fn check(&self, batch_size: usize) -> Result<()> {
        if self.inner_steps == 0 {
            return Err(Error::config("inner_steps", "0: at least 1 is needed"));
        }
        if !(self.inner_rate >= 0.0 && self.inner_rate.is_finite()) {
            return Err(Error::config(
                "inner_rate",
                format!("{} is not a number from 0 up", self.inner_rate),
            ));
        }
        if self.tasks.query == 0 {
            return Err(Error::config("tasks.query", "0: the query says how well a task was learned"));
        }
        self.tasks.check(batch_size).map_err(|e| e.within("tasks"))
    }
}

/// The gradient of the loss after some steps on a task, mean over tasks; Finn et al. 2017, Algorithm 1.
///
/// The steps are plain gradient descent on the support; the loss is that of the query, whose examples the steps did not see.
/// Second order is exact: the weights of every inner step are kept, and with `g` the gradient at the last of them,
/// `g -= inner_rate H g` goes back through the steps, where `H g` is the gradient of `<grad, g>` under the same draws.
///
/// Adds `support_loss`, before the inner steps, and `query_loss`, after them. Law: the weights come back bit for bit.
#[derive(Debug)]
pub struct Maml {
    /// Its settings.
    pub config: MamlConfig,
}

impl Persist for Maml {}

impl Gradient for Maml {
    fn gradient(
        &mut self,
        params: &Params,
        objective: &mut dyn Objective,
        batch: &Batch,
        clock: Clock,
    ) -> Result<Evaluation> {
        let tasks = self.config.tasks.of_batch(batch).map_err(|e| e.within("maml.tasks"))?;
        let start = params.snapshot();
        let draws = Draws::new();
        let sum: Vec<Tensor> = start.iter().map(Tensor::zeros_like).collect();
        let mut seen = Vec::new();
        for (number, task) in tasks.iter().enumerate() {
            let mut run =
                Inner { config: &self.config, params, objective, task, clock, draws, number: number as u64 };
            let outcome = run.gradient();
            params.restore(&start);
            let (gradient, evaluation) = outcome?;
            add_(&sum, &gradient, 1.0);
            seen.push(evaluation);
        }
        scale_(&sum, &Tensor::from(1.0 / tasks.len() as f64));
        set_grads(&params.handles(), &sum);
        Ok(mean(seen))
    }
}

/// One task.
struct Inner<'a> {
    config: &'a MamlConfig,
    params: &'a Params,
    objective: &'a mut dyn Objective,
    task: &'a Task,
    clock: Clock,
    draws: Draws,
    number: u64,
}

impl Inner<'_> {
    /// Leaves the weights moved.
    fn gradient(&mut self) -> Result<(Vec<Tensor>, Evaluation)> {
        let (steps, rate) = (self.config.inner_steps, self.config.inner_rate);
        let second = self.config.order == MamlOrder::Second;
        let (mut visited, mut support_loss) = (Vec::new(), None);
        for step in 0..steps {
            let (gradient, evaluation) = self.at(step, false)?;
            support_loss.get_or_insert(evaluation.loss);
            if second {
                visited.push(self.params.snapshot());
            }
            add_(&self.params.handles(), &gradient, -rate);
        }
        let (mut gradient, mut evaluation) = self.at(steps, false)?;
        evaluation.terms.extend(support_loss.map(|loss| ("support_loss", loss)));
        evaluation.terms.push(("query_loss", evaluation.loss.shallow_clone()));
        for (step, weights) in visited.iter().enumerate().rev() {
            self.params.restore(weights);
            let (inner, _) = self.at(step as u64, true)?;
            let product = inner.iter().zip(&gradient).map(|(h, g)| (h * g).sum(g.kind()));
            let product = product.reduce(|a, b| a + b).unwrap_or_default();
            if product.requires_grad() {
                let along = Tensor::f_run_backward(&[product], &self.params.handles(), false, false)?;
                let along = defined(along, &gradient);
                // New tensors: autograd may have handed out one for two parameters.
                gradient = gradient.iter().zip(&along).map(|(g, h)| g - h * rate).collect();
            }
        }
        Ok((gradient, evaluation))
    }

    /// The gradient of the `step`th evaluation of this task, the last of which is of the query.
    fn at(&mut self, step: u64, graph: bool) -> Result<(Vec<Tensor>, Evaluation)> {
        self.draws.seed(self.number * (self.config.inner_steps + 1) + step);
        let part = if step < self.config.inner_steps { &self.task.support } else { &self.task.query };
        let evaluation = self.task.evaluation(self.objective.evaluate(part, self.clock)?)?;
        let handles = self.params.handles();
        let gradient =
            defined(Tensor::f_run_backward(&[&evaluation.loss], &handles, graph, graph)?, &handles);
        Ok((gradient, detached(evaluation)))
    }
}

/// Zeros where there is no gradient.
fn defined(gradients: Vec<Tensor>, like: &[Tensor]) -> Vec<Tensor> {
    let zeros = |p: &Tensor| p.detach().zeros_like();
    gradients.into_iter().zip(like).map(|(g, p)| if g.defined() { g } else { zeros(p) }).collect()
}
