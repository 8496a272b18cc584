//! What a model is told of images, and what its samples are told.

use crate::adapter::Hints;
use crate::arm::Arm;
use crate::assemble::rows_from;
use crate::captioned::Prompts;
use crate::recipe::SampleLabels;
use heldout_core::{Batch, Cond, Result};
use std::ops::Range;
use tch::Tensor;

/// The conditions of samples by their numbers, whatever batches they are drawn in. Lists shorter than the samples start
/// again.
#[derive(Debug, Default)]
pub(crate) struct SampleConditions {
    /// Images to follow, `[M, c, H, W]`.
    pub(crate) hints: Option<Tensor>,
    /// Texts to show.
    pub(crate) prompts: Option<Prompts>,
    /// What guidance by a CLIP draws samples to, `[P, D]`.
    pub(crate) targets: Option<Tensor>,
    /// Classes, `[M]`.
    pub(crate) labels: Option<Tensor>,
}

impl SampleConditions {
    /// Of the samples in `range`.
    ///
    /// # Errors
    /// A text cannot be encoded.
    pub(crate) fn of(&self, range: Range<u64>) -> Result<Cond> {
        let Self { hints, prompts, targets, labels } = self;
        let turn = |all: &Tensor| rows_from(all, range.start, (range.end - range.start) as i64);
        Ok(Cond {
            hint: hints.as_ref().map(turn),
            context: prompts.as_ref().map(|prompts| prompts.context(range.clone())).transpose()?,
            text_embeds: targets.as_ref().map(turn),
            label: labels.as_ref().map(turn),
            ..Cond::default()
        })
    }
}

impl Clone for SampleConditions {
    /// The same tensors.
    fn clone(&self) -> Self {
        let Self { hints, prompts, targets, labels } = self;
        let shared = |t: &Option<Tensor>| t.as_ref().map(Tensor::shallow_clone);
        Self {
            hints: shared(hints),
            prompts: prompts.clone(),
            targets: shared(targets),
            labels: shared(labels),
        }
    }
}

/// One of the two sets of real data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Train,
    HeldOut,
}

impl Arm<'_> {
    /// The hints that the adapter looks at, if any.
    pub(crate) fn hints(&self) -> Option<Hints> {
        Hints::of(self.recipe.adapter.as_ref())
    }

    /// Hints of as many held-out images, or of all that there are.
    pub(crate) fn held_out_hints(&self, n: usize) -> Result<Option<Tensor>> {
        let rows = (n as i64).min(self.held_out.size()[0]);
        self.hints().map(|hints| hints.compute(&self.held_out.narrow(0, 0, rows))).transpose()
    }

    /// The first `n` of a set in the space of the model, with what it is told of them; a smaller set is repeated.
    pub(crate) fn told(&self, side: Side, n: i64) -> Result<Batch> {
        let (x, images) = match side {
            Side::Train => (&self.in_space.train, &self.train),
            Side::HeldOut => (&self.in_space.held_out, &self.held_out),
        };
        let hint = self.hints().map(|hints| hints.compute(&rows_from(images, 0, n))).transpose()?;
        let context = self.texts.as_ref().map(|texts| texts.of(side, n)).transpose()?;
        Ok(Batch::new(rows_from(x, 0, n), Cond { hint, context, ..Cond::default() }))
    }

    /// What `n` samples are told: to follow held-out images, to show the recipe's prompts, and labels of training images.
    pub(crate) fn sample_conditions(&self, n: usize) -> Result<SampleConditions> {
        let prompts = self.texts.as_ref().map(|texts| texts.prompts.clone());
        let labels = self.recipe.sample.labels.map(|SampleLabels::Train| self.train_labels());
        let labels = labels.flatten().map(|labels| Tensor::from_slice(&labels).to_device(self.device));
        Ok(SampleConditions { hints: self.held_out_hints(n)?, prompts, targets: None, labels })
    }
}
