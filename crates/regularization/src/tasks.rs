//! The tasks of meta-learning: parts of a batch, support and query drawn apart.

use crate::band::{Band, bands, check_edges, row_masks};
use heldout_core::{Batch, Error, Evaluation, Result, Rows};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use tch::{Device, Kind, Tensor};

/// What makes examples a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TaskKind {
    /// Examples of one class.
    Class,
    /// Examples that have one of several attributes: labels are vectors of 0 and 1, `[B, A]`.
    Attribute,
    /// One band of noise levels of all examples.
    NoiseBand {
        /// Where the bands meet, `ln(alpha^2 / sigma^2)`, rising.
        edges: Vec<f64>,
    },
    /// One of several equal parts of the training set.
    Shard {
        /// How many parts.
        shards: i64,
    },
}

/// Which tasks a step sees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TasksConfig {
    /// What makes examples a task.
    pub of: TaskKind,
    /// Tasks of a step, at most.
    pub per_step: usize,
    /// Examples that a task is learned from.
    pub support: usize,
    /// Other examples of it that say how well; 0 where none are asked for.
    pub query: usize,
}

/// One task.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) support: Batch,
    pub(crate) query: Batch,
    band: Option<Band>,
}

impl TasksConfig {
    /// Which field cannot be honoured with batches of `batch_size`.
    pub(crate) fn check(&self, batch_size: usize) -> Result<()> {
        let Self { of, per_step, support, query } = self;
        for (field, n) in [("per_step", *per_step), ("support", *support)] {
            if n == 0 {
                return Err(Error::config(field, "0: at least 1 is needed"));
            }
        }
        if support + query > batch_size {
            let reason = format!(
                "{support} and a query of {query} are more than a batch of {batch_size}: lower them, or raise the batch size"
            );
            return Err(Error::config("support", reason));
        }
        match of {
            TaskKind::NoiseBand { edges } if edges.is_empty() => {
                Err(Error::config("of.edges", "[]: one edge at least makes two bands"))
            }
            TaskKind::NoiseBand { edges } => check_edges("of.edges", edges),
            TaskKind::Shard { shards } if *shards < 2 => {
                Err(Error::config("of.shards", format!("{shards}: at least 2 are needed")))
            }
            TaskKind::Class | TaskKind::Attribute | TaskKind::Shard { .. } => Ok(()),
        }
    }

    /// The tasks of a batch, as many as there are examples for and at most `per_step`, chosen at random.
    pub(crate) fn of_batch(&self, batch: &Batch) -> Result<Vec<Task>> {
        let groups = self.groups(batch)?;
        let index = batch.index.as_ref().map(host).transpose()?;
        let mut tasks = Vec::new();
        for place in order(groups.len()) {
            let (rows, band) = &groups[place];
            if let Some((support, query)) = self.divide(rows, index.as_deref()) {
                let pick =
                    |rows: &[i64]| batch.select(&Tensor::from_slice(rows).to_device(batch.x_start.device()));
                tasks.push(Task { support: pick(&support), query: pick(&query), band: *band });
            }
            if tasks.len() == self.per_step {
                break;
            }
        }
        if tasks.is_empty() {
            let reason = format!(
                "{} and a query of {}: no task has as many different examples in a batch of {}; lower them, or raise the \
                 batch size",
                self.support,
                self.query,
                batch.len()
            );
            return Err(Error::config("support", reason));
        }
        Ok(tasks)
    }

    /// Rows of each task, and its band.
    fn groups(&self, batch: &Batch) -> Result<Vec<(Vec<i64>, Option<Band>)>> {
        let all = || (0..batch.len()).collect::<Vec<i64>>();
        let by = |keys: Vec<i64>| {
            let mut groups: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
            keys.into_iter().zip(0..).for_each(|(key, row)| groups.entry(key).or_default().push(row));
            groups.into_values().map(|rows| (rows, None)).collect()
        };
        let fail = |reason: &str| Error::config("of.kind", reason);
        match &self.of {
            TaskKind::NoiseBand { edges } => {
                Ok(bands(edges).into_iter().map(|band| (all(), Some(band))).collect())
            }
            TaskKind::Shard { shards } => {
                let index = batch.index.as_ref().ok_or_else(|| fail("shard: the batches have no index"))?;
                Ok(by(host(&index.remainder(*shards))?))
            }
            TaskKind::Class => match &batch.cond.label {
                Some(label) if label.dim() == 1 => Ok(by(host(label)?)),
                _ => Err(fail("class: the data have no class ids; use noise_band or shard")),
            },
            TaskKind::Attribute => match &batch.cond.label {
                Some(label) if label.dim() == 2 => {
                    let has = |a: i64| host(&label.select(1, a).gt(0.5).nonzero().flatten(0, -1));
                    (0..label.size()[1]).map(|a| Ok((has(a)?, None))).collect()
                }
                _ => Err(fail("attribute: the labels are no vectors of attributes; use class")),
            },
        }
    }

    /// The first rows for support, the next for the query, without an example on both sides.
    fn divide(&self, rows: &[i64], index: Option<&[i64]>) -> Option<(Vec<i64>, Vec<i64>)> {
        let example = |row: &i64| index.map_or(*row, |index| index[*row as usize]);
        let support: Vec<i64> = rows.iter().take(self.support).copied().collect();
        let learned: HashSet<i64> = support.iter().map(example).collect();
        let rest = rows[support.len()..].iter().filter(|row| !learned.contains(&example(row)));
        let query: Vec<i64> = rest.take(self.query).copied().collect();
        (support.len() == self.support && query.len() == self.query).then_some((support, query))
    }
}

impl Task {
    /// What `evaluation` says of this task: of its band alone, where it is one. The loss stays the mean of the rows.
    pub(crate) fn evaluation(&self, evaluation: Evaluation) -> Result<Evaluation> {
        let Some(band) = self.band else { return Ok(evaluation) };
        let rows = evaluation.rows.ok_or_else(|| {
            Error::config("of.kind", "noise_band: needs an objective that gives the loss of every row")
        })?;
        let inside = row_masks(&rows.log_snr, &[band]).swap_remove(0).to_kind(Kind::Float);
        // Without a row in the band the loss is 0 and teaches nothing.
        let share = inside.size()[0] as f64 / inside.sum(Kind::Float).clamp_min(1.0);
        let rows = Rows { loss: rows.loss * inside * share, ..rows };
        Ok(Evaluation { loss: rows.loss.mean(Kind::Float), rows: Some(rows), ..evaluation })
    }
}

fn host(x: &Tensor) -> Result<Vec<i64>> {
    Ok(Vec::<i64>::try_from(x.to_device(Device::Cpu).to_kind(Kind::Int64))?)
}

/// A random order.
fn order(n: usize) -> Vec<usize> {
    let order = Tensor::randperm(n as i64, (Kind::Int64, Device::Cpu));
    (0..n).map(|i| order.int64_value(&[i as i64]) as usize).collect()
}
