//! Arms that cost as much as the first.

use crate::describe::multiply_adds;
use crate::frames::ExampleShape;
use crate::recipe::{Recipe, Study};
use crate::space::Space;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_data::{ImageSet, find};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::rc::Rc;
use tch::Device;

/// What all arms of a study have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Equal {
    /// The steps that each recipe says.
    #[default]
    Steps,
    /// The multiply-adds of the first arm, of passes of its network over all images of all steps: steps are what follows
    /// from that, to the nearest. Evaluations that a technique adds to a step, and an autoencoder before the network, are not
    /// counted.
    MultiplyAdds,
}

/// The recipes of all arms, with the steps that make each cost what the first one costs where the study asks for that. Their
/// autoencoders are there already.
pub(crate) fn equal_compute(study: &Study, root: &Path) -> Result<Vec<Rc<Recipe>>> {
    let mut first = None;
    let equal = |(name, recipe): &(String, Recipe)| {
        let mut recipe = recipe.clone();
        if study.equal == Equal::Steps {
            return Ok(Rc::new(recipe));
        }
        if recipe.adapter.is_some() || recipe.train.stop_after.is_some() {
            let reason = format!("multiply_adds, where {name} has an adapter or train.stop_after: use steps");
            return Err(anyhow!(Error::config("equal", reason)));
        }
        let set = ImageSet::open(&find(&recipe.data.name, root)?)?;
        let space = Space::of(&recipe, ExampleShape::of(&set), Device::Cpu)?;
        let mask = i64::from(recipe.regularization.corruption.is_some()); // one more channel
        let [channels, height, width] = space.shape;
        let of_image = multiply_adds(&recipe.model, [channels + mask, height, width])?;
        let of_step = of_image as f64 * recipe.train.batch_size as f64;
        let whole = *first.get_or_insert(of_step * recipe.train.steps as f64);
        recipe.train.steps = ((whole / of_step).round() as u64).max(1);
        Ok(Rc::new(recipe))
    };
    study.arms.iter().map(equal).collect()
}
