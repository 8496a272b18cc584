//! What a recipe trains on.

use super::Recipe;
use heldout_core::{Error, Result};
use heldout_data::{
    AttributeFilter, ImageSet, LabelConfig, RepeatConfig, Split, SplitConfig, check_repeat, find, matching,
    multiplicity,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What is trained on. Whatever is measured on training images is measured on each of them once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// A shipped or fetched data set, or a path.
    pub name: String,
    /// How it is divided.
    pub split: SplitConfig,
    /// Of both sides those images alone whose attributes are these; `any` is every value but none. All if
    /// absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filter: AttributeFilter,
    /// Of both sides the images of these classes alone. All if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<i64>,
    /// What the model is told of training images; their classes if absent. Validation and samples are told no
    /// class, so that `f_mem` is that of unconditional samples whatever this is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: LabelConfig,
    /// Consecutive groups of training images that are drawn several times as often; each image once if absent.
    /// They are counted in the split, as `n_train` is: what `filter` leaves of a group keeps its times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repeat: Vec<RepeatConfig>,
}

fn is_default(labels: &LabelConfig) -> bool {
    *labels == LabelConfig::default()
}

impl DataConfig {
    /// Both sides of `set`, of which a filter leaves the images that it wants, each where it would be without
    /// one; and how often each training image stands in an epoch. `root` is the folder of shipped data sets.
    pub(crate) fn divide(&self, set: &ImageSet, root: &Path) -> Result<(Split, Vec<usize>)> {
        let mut split = Split::new(set, self.split).map_err(|e| e.within("data.split"))?;
        let mut times = multiplicity(&self.repeat, split.train.len());
        let filter = &self.filter;
        if filter.is_empty() && self.classes.is_empty() {
            return Ok((split, times));
        }
        let mut kept = vec![true; set.len()];
        if !filter.is_empty() {
            kept = matching(&find(&self.name, root)?, filter).map_err(|e| e.within("data"))?;
        }
        self.of_classes(set)?.iter().zip(&mut kept).for_each(|(of, kept)| *kept &= of);
        self.check_filtered(&split.train, &kept)?;
        let mut of_train = split.train.iter().map(|i| kept[*i]);
        times.retain(|_| of_train.next().unwrap_or(false));
        for (side, images) in [("training", &mut split.train), ("held-out", &mut split.held_out)] {
            images.retain(|i| kept[*i]);
            if images.is_empty() {
                let (field, asked) = match filter.is_empty() {
                    true => ("data.classes", format!("{:?}", self.classes)),
                    false => ("data.filter", format!("{filter:?}")),
                };
                let reason = format!("{asked}: no {side} image is left, take more of them or ask for others");
                return Err(Error::config(field, reason));
            }
        }
        Ok((split, times))
    }

    /// Which images are of the classes that are asked for.
    fn of_classes(&self, set: &ImageSet) -> Result<Vec<bool>> {
        if self.classes.is_empty() {
            return Ok(vec![true; set.len()]);
        }
        let Some(labels) = &set.labels else {
            let reason = format!("{:?}, where {} has no labels: leave it out", self.classes, set.title);
            return Err(Error::config("data.classes", reason));
        };
        if let Some(unknown) = self.classes.iter().find(|class| !labels.contains(class)) {
            let last = labels.iter().max().copied().unwrap_or_default();
            let reason = format!("{unknown}: no image is of this class, they are 0 to {last}");
            return Err(Error::config("data.classes", reason));
        }
        Ok(labels.iter().map(|label| self.classes.contains(label)).collect())
    }

    /// To so many images at most, with as much of the groups as is among them.
    pub(super) fn shrink(&mut self, n_train: usize, held_out: usize) {
        let split = &mut self.split;
        (split.n_train, split.held_out) = (split.n_train.min(n_train), split.held_out.min(held_out));
        let mut room = split.n_train;
        self.repeat.retain_mut(|group| {
            group.images = group.images.min(room);
            room -= group.images;
            group.images > 0
        });
    }

    /// Whether a filter or classes leave an image of every group.
    fn check_filtered(&self, train: &[usize], kept: &[bool]) -> Result<()> {
        let mut rest = train;
        for (i, RepeatConfig { images, .. }) in self.repeat.iter().enumerate() {
            let Some((group, others)) = rest.split_at_checked(*images) else { break };
            if !group.iter().any(|i| kept[*i]) {
                let reason = format!(
                    "{images}: data.filter or data.classes leaves none of these images: take more of them"
                );
                return Err(Error::config(format!("data.repeat[{i}].images"), reason));
            }
            rest = others;
        }
        Ok(())
    }

    /// Where the latents of training images are, in a folder that the recipe names: beside those of other places
    /// of the split.
    pub(crate) fn train_folder(&self) -> String {
        match self.split.skip {
            0 => "train".to_owned(),
            skip => format!("train-from-{skip}"),
        }
    }
}

impl Recipe {
    /// Which field of `data` cannot be honoured, as far as the recipe alone can tell.
    pub(super) fn check_data(&self) -> Result<()> {
        let DataConfig { split, filter, labels, repeat, .. } = &self.data;
        labels.check().map_err(|e| e.within("data.labels"))?;
        check_repeat(repeat, split.n_train).map_err(|e| e.within("data"))?;
        let classes = self.model.classes();
        let refuse = |reason: String| Err(Error::config("data.labels.kind", reason));
        let told = match labels {
            LabelConfig::True {} => return Ok(()),
            LabelConfig::None {} if classes == 0 => return Ok(()),
            LabelConfig::None {} => {
                return refuse(format!(
                    "none, where the model knows {classes} classes: leave out its classes (model.num_classes, \
                     model.num_class_embeds), or tell it labels"
                ));
            }
            LabelConfig::Random { classes, .. } => Some(i64::from(*classes)),
            // How many are left is known when the data are open.
            LabelConfig::Unique {} => {
                Some(split.n_train as i64).filter(|_| filter.is_empty() && self.data.classes.is_empty())
            }
        };
        if classes == 0 {
            let kind = if matches!(labels, LabelConfig::Unique {}) { "unique" } else { "random" };
            let needed = told.unwrap_or(split.n_train as i64);
            return refuse(format!(
                "{kind}, where the model knows no classes: set its model.num_classes (model.num_class_embeds) to \
                 {needed}"
            ));
        }
        told.map_or(Ok(()), |told| self.check_classes(Some(told)))
    }

    /// Whether a model that knows classes knows those that it is told of, besides one that stands for none;
    /// `None` for images without labels.
    pub(crate) fn check_classes(&self, told: Option<i64>) -> Result<()> {
        let classes = self.model.classes();
        let null = self.regularization.null_class().filter(|null| *null < classes);
        if classes == 0 || told.is_some_and(|told| told <= null.unwrap_or(classes)) {
            return Ok(());
        }
        let found = match (told, &self.data.labels) {
            (None, _) => "a data set of no labels".to_owned(),
            (Some(n), LabelConfig::Random { .. }) => format!("{n} random labels"),
            (Some(n), LabelConfig::Unique {}) => format!("{n} unique labels"),
            (Some(n), _) => format!("a data set of {n} classes"),
        };
        let beside = null.map_or(String::new(), |null| format!(" beside {null}, the null class"));
        let reason = format!("{classes} for {found}{beside}: set it to the classes of the data, or to 0");
        Err(Error::config("model.num_classes", reason))
    }
}
