//! What a recipe trains on.

use super::Recipe;
use heldout_core::{Error, Result};
use heldout_data::{
    AttributeClasses, AttributeFilter, AttributeTable, ImageSet, LabelConfig, RepeatConfig, Split,
    SplitConfig, check_repeat, find, multiplicity,
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
    /// Of both sides those images alone whose attributes are these; `any` is every value but none, `a*` every
    /// value that begins with `a`. All if absent.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub filter: AttributeFilter,
    /// Of both sides the images of these classes alone. All if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<i64>,
    /// Training images with all attributes of one of these are left out; the held-out side keeps them. For
    /// combinations that a model has never seen; Okawa et al. 2023.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<AttributeFilter>,
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
    /// Both sides of `set`, of which `filter`, `classes` and `exclude` leave what they want, each image where it would be
    /// without them; and what the recipe says of single images. `root` is the folder of shipped data sets.
    pub(crate) fn divide(&self, set: &ImageSet, root: &Path) -> Result<Sides> {
        let split = Split::new(set, self.split).map_err(|e| e.within("data.split"))?;
        let multiplicity = multiplicity(&self.repeat, split.train.len());
        let mut sides = Sides { split, multiplicity, excluded: Vec::new(), classes: None };
        let mut kept = self.of_classes(set)?;
        let Some(table) = self.table(root)? else {
            sides.keep(self, &kept, &kept)?;
            return Ok(sides);
        };
        let matching = table.matching(&self.filter).map_err(|e| e.within("data.filter"))?;
        kept.iter_mut().zip(matching).for_each(|(kept, matching)| *kept &= matching);
        let mut trained = kept.clone();
        for (i, filter) in self.exclude.iter().enumerate() {
            let out = table.matching(filter).map_err(|e| e.within(&format!("data.exclude[{i}]")))?;
            trained.iter_mut().zip(out).for_each(|(trained, out)| *trained &= !out);
        }
        sides.keep(self, &kept, &trained)?;
        if let LabelConfig::Attributes { classes } = &self.labels {
            let classes = AttributeClasses::new(&table, classes);
            sides.classes = Some(classes.map_err(|e| e.within("data.labels.classes"))?);
        }
        Ok(sides)
    }

    /// The last setting that leaves images out, and what it asks for.
    fn narrowest(&self) -> (&'static str, String) {
        let Self { filter, classes, exclude, .. } = self;
        match (exclude.is_empty(), filter.is_empty()) {
            (false, _) => ("exclude", format!("{exclude:?}")),
            (true, false) => ("filter", format!("{filter:?}")),
            (true, true) => ("classes", format!("{classes:?}")),
        }
    }

    /// The table of attributes, where something asks for it.
    fn table(&self, root: &Path) -> Result<Option<AttributeTable>> {
        let by_attributes = matches!(self.labels, LabelConfig::Attributes { .. });
        let asked = [
            ("filter", !self.filter.is_empty()),
            ("exclude", !self.exclude.is_empty()),
            ("labels", by_attributes),
        ];
        let Some((field, _)) = asked.into_iter().find(|(_, asked)| *asked) else { return Ok(None) };
        Ok(Some(AttributeTable::read(&find(&self.name, root)?, &format!("data.{field}"))?))
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

    /// Whether an image of every group is left.
    fn check_groups(&self, train: &[usize], kept: &[bool]) -> Result<()> {
        let mut rest = train;
        for (i, RepeatConfig { images, .. }) in self.repeat.iter().enumerate() {
            let Some((group, others)) = rest.split_at_checked(*images) else { break };
            if !group.iter().any(|i| kept[*i]) {
                let (field, _) = self.narrowest();
                let reason = format!("{images}: data.{field} leaves none of these images: take more of them");
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

/// The two sides of a data set, and what a recipe says of single images.
#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) split: Split,
    /// How often each training image stands in an epoch.
    pub(crate) multiplicity: Vec<usize>,
    /// What `data.exclude` has left out of the training images.
    pub(crate) excluded: Vec<usize>,
    /// What images are told by their attributes, where that is what they are told.
    pub(crate) classes: Option<AttributeClasses>,
}

impl Sides {
    /// Keeps what `kept` says of the whole set, and of the training images what `trained` does.
    fn keep(&mut self, config: &DataConfig, kept: &[bool], trained: &[bool]) -> Result<()> {
        let Split { train, held_out, .. } = &mut self.split;
        config.check_groups(train, trained)?;
        let mut of_train = train.iter().map(|i| trained[*i]);
        self.multiplicity.retain(|_| of_train.next().unwrap_or(false));
        self.excluded = train.iter().copied().filter(|i| kept[*i] && !trained[*i]).collect();
        for (side, images, kept) in [("training", train, trained), ("held-out", held_out, kept)] {
            images.retain(|i| kept[*i]);
            if images.is_empty() {
                let (field, of) = config.narrowest();
                let reason = format!("{of}: no {side} image is left, take more of them or another {field}");
                return Err(Error::config(format!("data.{field}"), reason));
            }
        }
        Ok(())
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
            LabelConfig::Attributes { .. } if self.sample.labels.is_some() => {
                let reason =
                    "train, where labels change from step to step: leave it out, or ask with a table compose";
                return Err(Error::config("sample.labels", reason));
            }
            LabelConfig::Attributes { classes } => Some(classes.len() as i64),
            LabelConfig::Random { classes, .. } => Some(i64::from(*classes)),
            // How many are left is known when the data are open.
            LabelConfig::Unique {} => {
                let all = filter.is_empty() && self.data.classes.is_empty() && self.data.exclude.is_empty();
                Some(split.n_train as i64).filter(|_| all)
            }
        };
        if classes == 0 {
            let kind = match labels {
                LabelConfig::Unique {} => "unique",
                LabelConfig::Attributes { .. } => "attributes",
                _ => "random",
            };
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
            (Some(n), LabelConfig::Attributes { .. }) => format!("{n} classes by attributes"),
            (Some(n), _) => format!("a data set of {n} classes"),
        };
        let beside = null.map_or(String::new(), |null| format!(" beside {null}, the null class"));
        let reason = format!("{classes} for {found}{beside}: set it to the classes of the data, or to 0");
        Err(Error::config("model.num_classes", reason))
    }
}
