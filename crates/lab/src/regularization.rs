//! The techniques of a recipe, and how they are put together.

use crate::recipe::{Recipe, TrainConfig};
use heldout_core::{Curve, Params, Result, Update};
use heldout_regularization::{
    GradientTechnique, SwaConfig, SwaRate, WeightsTechnique, build_gradient, build_update,
};
use heldout_train::{Backprop, OptimizerStep};
use serde::{Deserialize, Serialize};

/// Techniques by the value that they change; in each list the first is the innermost, or acts first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegularizationConfig {
    /// On the gradient.
    #[serde(default)]
    pub gradient: Vec<GradientTechnique>,
    /// On the weights after the step, or for evaluation.
    #[serde(default)]
    pub weights: Vec<WeightsTechnique>,
}

impl RegularizationConfig {
    /// Which field cannot be honoured.
    pub(crate) fn check(&self, recipe: &Recipe) -> Result<()> {
        let rows = recipe.train.batch_size;
        build_gradient(&self.gradient, Box::new(Backprop), rows)?;
        let weights = self.weights.iter().enumerate();
        weights
            .into_iter()
            .try_for_each(|(i, w)| w.check(rows).map_err(|e| e.within(&format!("weights[{i}]"))))
    }

    /// What moves the weights: the gradient with all that is listed around it, the optimiser, and all that is around that.
    pub(crate) fn update(&self, config: &TrainConfig, params: Params) -> Result<Box<dyn Update>> {
        let optimizer = config.optimizer.build(&params).map_err(|e| e.within("train.optimizer"))?;
        let gradient = build_gradient(&self.gradient, Box::new(Backprop), config.batch_size)?;
        let step =
            OptimizerStep::new(params, optimizer, gradient, self.learning_rate(config), config.non_finite);
        build_update(&self.weights, Box::new(step), config.batch_size)
    }

    /// That of the recipe, or the plan of weight averaging.
    fn learning_rate(&self, config: &TrainConfig) -> Box<dyn Curve> {
        let plan = self.weights.iter().find_map(|w| match w {
            WeightsTechnique::Swa(SwaConfig { start, rate: Some(rate), .. }) => Some((*start, *rate)),
            _ => None,
        });
        let inner = config.learning_rate;
        match plan {
            Some((start, rate)) => Box::new(SwaRate { inner, start, rate }),
            None => Box::new(inner),
        }
    }
}
