//! What samples are asked for.

use crate::recipe::Recipe;
use heldout_core::{Error, Result};
use heldout_data::{AttributeClasses, LabelConfig};
use heldout_features::ClassifierConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Combinations of the classes of `data.labels` that further samples are asked for at the end of a run, each from the noise
/// of the final samples; Liu et al. 2022, Eq. 11 and 15. A decoder of the attributes says what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComposeConfig {
    /// Of every condition; 1 is the product of the noisy densities, more draws samples further towards what is asked for,
    /// and at 0 nothing is asked for.
    #[serde(default = "one")]
    pub weight: f64,
    /// How the decoder is trained; its seed is no function of the run's, so that all arms and seeds have one judge.
    #[serde(default)]
    pub decoder: ClassifierConfig,
    /// By name; `composed-NAME.png` shows the samples.
    pub asked: BTreeMap<String, AskedConfig>,
}

fn one() -> f64 {
    1.0
}

/// A combination: all of `and`, one of `or` at least, none of `not`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AskedConfig {
    /// Classes that hold together.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub and: Vec<String>,
    /// Classes of which one holds. Each sample is asked for one of them, as many samples for each: draws of the mixture
    /// itself. The estimate of the mixture at every noise level ([`heldout_samplers::Or`]) would need a classifier of noisy
    /// images, whose faults would count as the model's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub or: Vec<String>,
    /// Classes that do not hold.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not: Vec<String>,
}

impl ComposeConfig {
    /// Which field cannot be honoured.
    pub(crate) fn check(&self, recipe: &Recipe) -> Result<()> {
        if !(self.weight.is_finite() && self.weight >= 0.0) {
            let reason =
                format!("{}: a number from 0 on is needed; what must not hold goes under not", self.weight);
            return Err(Error::config("weight", reason));
        }
        self.decoder.check().map_err(|e| e.within("decoder"))?;
        let LabelConfig::Attributes { classes } = &recipe.data.labels else {
            let reason = "needs classes: set data.labels to { kind = \"attributes\", classes = { NAME = { ATTRIBUTE = VALUE } } }";
            return Err(Error::config("asked", reason));
        };
        let told = [("text", recipe.text.is_some()), ("adapter", recipe.adapter.is_some())];
        if let Some((table, _)) = told.into_iter().find(|(_, there)| *there) {
            let reason = format!("combines classes alone: leave it out, or the table {table}");
            return Err(Error::config("asked", reason));
        }
        if self.asked.is_empty() {
            return Err(Error::config(
                "asked",
                "nothing: name a combination, as both = { and = [\"a\", \"b\"] }",
            ));
        }
        self.asked.iter().try_for_each(|(name, asked)| {
            let named = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if name.is_empty() || !named {
                let reason = "names are letters, digits, - and _: they become files";
                return Err(Error::config(format!("asked.{name}"), reason));
            }
            asked.check(&classes.keys().collect()).map_err(|e| e.within(&format!("asked.{name}")))
        })
    }
}

impl AskedConfig {
    fn fields(&self) -> [(&'static str, &[String]); 3] {
        [("and", &self.and), ("or", &self.or), ("not", &self.not)]
    }

    /// All classes that it names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        self.and.iter().chain(&self.or).chain(&self.not)
    }

    fn check(&self, known: &BTreeSet<&String>) -> Result<()> {
        let mut named = BTreeSet::new();
        for (field, names) in self.fields() {
            for name in names {
                if !known.contains(name) {
                    let all: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
                    let reason = format!("`{name}` is none of data.labels.classes: {}", all.join(", "));
                    return Err(Error::config(field, reason));
                }
                if !named.insert(name) {
                    return Err(Error::config(field, format!("`{name}` is named twice: name it once")));
                }
            }
        }
        if self.or.len() == 1 {
            return Err(Error::config("or", format!("`{}` alone: write it under and", self.or[0])));
        }
        match named.is_empty() {
            true => Err(Error::config("and", "nothing is asked for: name a class under and, or or not")),
            false => Ok(()),
        }
    }

    /// As a person reads it.
    pub(crate) fn title(&self) -> String {
        let or = self.or.join(" or ");
        let or = if self.and.is_empty() && self.not.is_empty() { or } else { format!("({or})") };
        let or = (!self.or.is_empty()).then_some(or);
        let not = self.not.iter().map(|name| format!("not {name}"));
        self.and.iter().cloned().chain(or).chain(not).collect::<Vec<_>>().join(" and ")
    }
}

/// A combination by the numbers of its classes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    and: Vec<usize>,
    or: Vec<usize>,
    not: Vec<usize>,
}

impl Asked {
    /// Names that there are, as [`ComposeConfig::check`] sees to.
    pub(crate) fn new(config: &AskedConfig, classes: &AttributeClasses) -> Self {
        let of = |names: &[String]| names.iter().filter_map(|name| classes.number(name)).collect();
        Self { and: of(&config.and), or: of(&config.or), not: of(&config.not) }
    }

    /// Whether an image is so of which these classes hold.
    pub(crate) fn holds(&self, of: impl Fn(usize) -> bool) -> bool {
        let Self { and, or, not } = self;
        and.iter().all(|c| of(*c))
            && !not.iter().any(|c| of(*c))
            && (or.is_empty() || or.iter().any(|c| of(*c)))
    }

    /// What samples are asked for, an equal share of them for each: classes with the sign of their weight.
    pub(crate) fn alternatives(&self) -> Vec<Vec<(usize, f64)>> {
        let signed = |classes: &[usize], sign: f64| classes.iter().map(|c| (*c, sign)).collect::<Vec<_>>();
        let always = [signed(&self.and, 1.0), signed(&self.not, -1.0)].concat();
        if self.or.is_empty() {
            return vec![always];
        }
        self.or.iter().map(|class| [&always[..], &[(*class, 1.0)]].concat()).collect()
    }
}
