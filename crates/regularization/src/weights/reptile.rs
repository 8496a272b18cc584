//! First-order meta-learning by where tasks lead.

use crate::draws::Draws;
use crate::tasks::TasksConfig;
use heldout_core::{
    Average, Batch, Clock, Curve, CurveConfig, Error, Evaluation, Objective, Params, Persist, Result, Update,
    persists_inner,
};
use heldout_torch_ext::{add_, lerp_, scale_};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of [`Reptile`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReptileConfig {
    /// The tasks; the query is not used.
    pub tasks: TasksConfig,
    /// Inner steps on a task; at least 2, since one step is joint training.
    pub inner_steps: u64,
    /// How far the weights go towards the mean of where the tasks lead.
    pub share: CurveConfig,
}

impl ReptileConfig {
    /// Which field cannot be honoured with batches of `batch_size`.
    pub fn check(&self, batch_size: usize) -> Result<()> {
        if self.inner_steps == 0 {
            return Err(Error::config("inner_steps", "0: at least 1 is needed"));
        }
        self.share.check("share", 0.0, 1.0)?;
        self.tasks.check(batch_size).map_err(|e| e.within("tasks"))
    }
}

/// From the same weights, some steps of the inner update on each task; then a share of the way to the mean of where they
/// ended; Nichol et al. 2018, Algorithm 1 and section 3.
///
/// Every inner step has draws of its own. The state of the inner update goes on from task to task, as in the paper.
#[derive(Debug)]
pub struct Reptile<U> {
    /// What steps on a task.
    pub inner: U,
    /// Its settings.
    pub config: ReptileConfig,
}

persists_inner!(Reptile<U>);

impl<U: Update> Update for Reptile<U> {
    fn update(&mut self, objective: &mut dyn Objective, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let Self { inner, config } = self;
        let tasks = config.tasks.of_batch(batch).map_err(|e| e.within("reptile.tasks"))?;
        let start = inner.params().snapshot();
        let draws = Draws::new();
        let ends: Vec<Tensor> = start.iter().map(Tensor::zeros_like).collect();
        let mut last = None;
        for (number, task) in tasks.iter().enumerate() {
            inner.params().restore(&start);
            for step in 0..config.inner_steps {
                draws.seed(number as u64 * config.inner_steps + step);
                let mut of_task = OfTask { objective, task };
                last = Some(inner.update(&mut of_task, &task.support, clock)?);
            }
            add_(&ends, &inner.params().handles(), 1.0);
        }
        scale_(&ends, &Tensor::from(1.0 / tasks.len() as f64));
        inner.params().restore(&start);
        lerp_(&inner.params().handles(), &ends, config.share.at(clock));
        last.ok_or_else(|| Error::config("reptile.tasks", "no task"))
    }

    fn params(&self) -> &Params {
        self.inner.params()
    }

    fn averages(&self) -> Vec<Average<'_>> {
        self.inner.averages()
    }
}

/// The loss of one task.
#[derive(Debug)]
struct OfTask<'a> {
    objective: &'a mut dyn Objective,
    task: &'a crate::tasks::Task,
}

impl Persist for OfTask<'_> {}

impl Objective for OfTask<'_> {
    fn evaluate(&mut self, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        self.task.evaluation(self.objective.evaluate(batch, clock)?)
    }
}
