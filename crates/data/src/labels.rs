//! What a model is told of training images.

use crate::batches::below;
use crate::{AttributeFilter, ImageSet};
use heldout_core::{Error, Result, stream};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a model is told of a training image. Labels that mean nothing, and those that belong to one image
/// alone, make a model copy; Gu et al. 2023.
///
/// Labels are a matter of training images alone: of held-out ones nothing is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LabelConfig {
    /// Its class, in sets that have classes.
    True {},
    /// Nothing.
    None {},
    /// A class that was drawn for it once, each as likely.
    Random {
        /// How many there are.
        classes: u32,
        /// The class is a function of this and of the image's place in the training set, so that training
        /// sets that are nested have the same ones.
        seed: u64,
    },
    /// A class of its own: its place in the training set.
    Unique {},
    /// One of the classes that hold for it, drawn anew at every step: see [`DrawnLabels`](crate::DrawnLabels).
    Attributes {
        /// What each class is, by name, in sets with a table of attributes. For every training image one holds at
        /// least. Their numbers are in the order of their names.
        classes: BTreeMap<String, AttributeFilter>,
    },
}

impl Default for LabelConfig {
    fn default() -> Self {
        Self::True {}
    }
}

impl LabelConfig {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Random { classes: 0, .. } => Err(Error::config("classes", "0: at least 1 is needed")),
            Self::Attributes { classes } if classes.is_empty() => {
                Err(Error::config("classes", "none: name one at least, as glasses = { glasses = \"any\" }"))
            }
            Self::Attributes { classes } => match classes.iter().find(|(_, filter)| filter.is_empty()) {
                Some((name, _)) => {
                    let reason = "holds for every image and tells nothing: name an attribute and its value";
                    Err(Error::config(format!("classes.{name}"), reason))
                }
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Classes of which a model of `n_train` images of `set` may be told; `None` where there are none. Of
    /// true ones those of the whole set.
    pub fn classes(&self, set: &ImageSet, n_train: usize) -> Option<i64> {
        match self {
            Self::True {} => set.labels.as_ref().map(|all| all.iter().max().map_or(0, |last| last + 1)),
            Self::None {} => None,
            Self::Random { classes, .. } => Some(i64::from(*classes)),
            Self::Unique {} => Some(n_train as i64),
            Self::Attributes { classes } => Some(classes.len() as i64),
        }
    }

    /// The class of each of the images `train` of `set`, in their order; `None` where nothing is told of
    /// them, or where it changes from step to step.
    pub fn of(&self, set: &ImageSet, train: &[usize]) -> Option<Vec<i64>> {
        match self {
            Self::True {} => set.labels.as_ref().map(|all| train.iter().map(|i| all[*i]).collect()),
            Self::None {} | Self::Attributes { .. } => None,
            Self::Random { classes, seed } => {
                let mut rng = ChaCha8Rng::seed_from_u64(stream(*seed, "random labels", 0, 0));
                Some(train.iter().map(|_| below(&mut rng, u64::from(*classes)) as i64).collect())
            }
            Self::Unique {} => Some((0..train.len() as i64).collect()),
        }
    }
}
