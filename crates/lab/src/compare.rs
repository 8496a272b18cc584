//! Every arm beside the baseline, paired by seed.

use crate::adapter::AdapterResult;
use crate::compose::ComposedResult;
use crate::recipe::Recipe;
use crate::result::ArmResult;
use anyhow::Result;
use heldout_core::Error;
use heldout_metrics::FeatureMetric;
use heldout_statistics::{Decision, Direction, Options, PairedDifference, decide, paired};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// What a study asks of its arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CompareConfig {
    /// The arm that all others stand beside.
    pub baseline: String,
    /// Those that stand beside it; all others if absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arms: Vec<String>,
    /// By what; the first one decides the answer.
    pub outcomes: Vec<Outcome>,
}

/// One number of an arm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Outcome {
    /// Denoising loss on held-out images.
    LossHeldOut,
    /// Denoising loss on training images.
    LossTrain,
    /// The first minus the second.
    Gap,
    /// Memorised fraction.
    FMem,
    /// The same where flipped and shifted training images count as the image.
    FMemTransformed,
    /// Distance of samples to held-out images.
    Quality,
    /// The same of the motion of clips.
    Motion,
    /// F1 of the edges of samples beside those that they were given.
    EdgeF1,
    /// Distance of samples to the hints that they were given, relative to that of samples without them.
    HintDistance,
    /// How varied samples of one hint are, relative to samples without one.
    Diversity,
    /// Share of samples as they were asked for, the mean over the combinations of `compose`.
    Composed,
    /// Of the recipe's `monitor.metrics`, against held-out images where the metric compares two sets.
    Metric(FeatureMetric),
}

use Outcome::{
    Composed, Diversity, EdgeF1, FMem, FMemTransformed, Gap, HintDistance, LossHeldOut, LossTrain, Motion,
    Quality,
};

const NAMES: [(Outcome, &str, &str); 11] = [
    (LossHeldOut, "loss_held_out", "held-out loss"),
    (LossTrain, "loss_train", "training loss"),
    (Gap, "gap", "held-out minus training loss"),
    (FMem, "f_mem", "memorised fraction"),
    (FMemTransformed, "f_mem_transformed", "memorised fraction with flips and shifts"),
    (Quality, "quality", "distance to held-out images"),
    (Motion, "motion", "distance to the motion of held-out clips"),
    (EdgeF1, "edge_f1", "F1 of edges"),
    (HintDistance, "hint_distance", "distance to the hints that were given, relative to none"),
    (Diversity, "diversity", "variety of the samples of a hint, relative to none"),
    (Composed, "composed", "share of samples as asked"),
];

impl Outcome {
    /// As in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Metric(metric) => metric.name(),
            own => NAMES.iter().find(|(o, ..)| *o == own).map_or("", |(_, name, _)| name),
        }
    }

    /// As in sentences.
    pub fn title(self) -> &'static str {
        match self {
            Self::Metric(metric) => metric.title(),
            own => NAMES.iter().find(|(o, ..)| *o == own).map_or("", |(.., title)| title),
        }
    }

    /// Which values are good ones.
    pub fn direction(self) -> Direction {
        use FeatureMetric::{AuthPct, Coverage, Density, Precision, Realism, Recall, Vendi};
        match self {
            Self::EdgeF1
            | Self::Diversity
            | Self::Composed
            | Self::Metric(Precision | Recall | Density | Coverage | Realism | AuthPct | Vendi) => {
                Direction::HigherIsBetter
            }
            _ => Direction::LowerIsBetter,
        }
    }

    /// What a recipe lacks to measure it; of motion say its data.
    fn needs(self, recipe: &Recipe) -> Option<&'static str> {
        let (there, lack) = match self {
            Self::EdgeF1 | Self::HintDistance | Self::Diversity => (
                recipe.adapter.as_ref().is_some_and(|adapter| !adapter.hints().is_empty()),
                "it is of adapters that look at hints; name those in compare.arms",
            ),
            Self::Composed => (recipe.compose.is_some(), "say what is asked for in a table compose"),
            Self::Metric(metric) => (
                recipe.monitor.features.is_some() && recipe.monitor.metrics.contains(&metric),
                "name a network in monitor.features and the metric in monitor.metrics",
            ),
            _ => return None,
        };
        (!there).then_some(lack)
    }

    /// Its value in an arm, if it was measured.
    pub fn of(self, arm: &ArmResult) -> Option<f64> {
        match self {
            Self::LossHeldOut => Some(arm.loss_held_out),
            Self::LossTrain => Some(arm.loss_train),
            Self::Gap => Some(arm.loss_held_out - arm.loss_train),
            Self::FMem => Some(arm.f_mem),
            Self::FMemTransformed => Some(arm.f_mem_transformed.model.value),
            Self::Quality => Some(arm.quality.value),
            Self::Motion => Some(arm.motion.as_ref()?.value),
            Self::EdgeF1 => arm.adapter.as_ref().map(|a| a.edge_f1),
            Self::HintDistance => arm.adapter.as_ref().and_then(AdapterResult::hint_distance),
            Self::Diversity => arm.adapter.as_ref().and_then(|a| a.diversity),
            Self::Composed => arm.composed.as_ref().map(ComposedResult::mean),
            Self::Metric(metric) => {
                let named = |name: &str| name.split('(').next() == Some(metric.title());
                let (_, found) = arm.metrics.iter().find(|(name, _)| named(name))?;
                Some(found.against_held_out.as_ref().unwrap_or(&found.model).value)
            }
        }
    }
}

impl JsonSchema for Outcome {
    fn schema_name() -> Cow<'static, str> {
        "Outcome".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let metrics = FeatureMetric::ALL.into_iter().filter_map(|metric| metric.name().parse().ok());
        let metrics = metrics.filter(|outcome| matches!(outcome, Self::Metric(_)));
        let all = NAMES.map(|(own, ..)| own).into_iter().chain(metrics);
        let named = |o: Self| json!({ "type": "string", "const": o.name(), "description": o.title() });
        json_schema!({ "description": "One number of an arm.", "oneOf": all.map(named).collect::<Vec<_>>() })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<Outcome> for String {
    fn from(outcome: Outcome) -> Self {
        outcome.name().to_owned()
    }
}

impl FromStr for Outcome {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        use FeatureMetric::{CT, FldGap};
        if let Some((outcome, ..)) = NAMES.iter().find(|(_, known, _)| *known == name) {
            return Ok(*outcome);
        }
        match name.parse() {
            Ok(metric @ (CT | FldGap)) => {
                let reason = format!("{metric}: it is best near 0, neither low nor high");
                Err(Error::config("outcomes", reason))
            }
            Ok(metric) => Ok(Self::Metric(metric)),
            Err(_) => {
                let own = NAMES.map(|(_, name, _)| name).join(", ");
                let metrics = FeatureMetric::ALL.map(FeatureMetric::name).join(", ");
                let reason = format!("`{name}` is none of {own}, nor one of monitor.metrics ({metrics})");
                Err(Error::config("outcomes", reason))
            }
        }
    }
}

impl TryFrom<String> for Outcome {
    type Error = Error;

    fn try_from(name: String) -> Result<Self, Error> {
        name.parse()
    }
}

impl CompareConfig {
    /// Which arm or outcome is not there.
    pub(crate) fn check(&self, arms: &[(String, Recipe)]) -> heldout_core::Result<()> {
        let Self { baseline, arms: others, outcomes } = self;
        let named = std::iter::once(("baseline", baseline)).chain(others.iter().map(|name| ("arms", name)));
        for (field, name) in named {
            if !arms.iter().any(|(known, _)| known == name) {
                let names: Vec<&str> = arms.iter().map(|(name, _)| name.as_str()).collect();
                let reason = format!("`{name}` is no arm: there are {}", names.join(", "));
                return Err(Error::config(field, reason));
            }
        }
        for outcome in outcomes {
            let lacks = |(name, recipe): &(String, Recipe)| {
                let lack = outcome.needs(recipe).filter(|_| self.has(name))?;
                Some(format!("{outcome} is not measured in {name}: {lack}"))
            };
            if let Some(reason) = arms.iter().find_map(lacks) {
                return Err(Error::config("outcomes", reason));
            }
        }
        if outcomes.is_empty() {
            return Err(Error::config("outcomes", "none: name one at least, as loss_held_out"));
        }
        Ok(())
    }

    /// Whether an arm takes part.
    fn has(&self, name: &str) -> bool {
        name == self.baseline || self.arms.is_empty() || self.arms.iter().any(|arm| arm == name)
    }

    /// Whether examples that are clips, or images, have all outcomes.
    pub(crate) fn check_examples(&self, arm: &str, clips: bool) -> heldout_core::Result<()> {
        if clips || !self.has(arm) || !self.outcomes.contains(&Motion) {
            return Ok(());
        }
        let reason = format!("motion: {arm} is of images, which do not move; leave it out");
        Err(Error::config("compare.outcomes", reason))
    }
}

/// All arms beside the baseline, by every outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The arm that the others stand beside.
    pub baseline: String,
    /// Outcome after outcome, arm after arm.
    pub effects: Vec<Effect>,
}

/// One arm beside the baseline by one outcome, over the seeds that both have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Effect {
    /// By what.
    pub outcome: Outcome,
    /// Which values are good ones.
    pub direction: Direction,
    /// The arm.
    pub arm: String,
    /// Its mean over the seeds.
    pub mean: f64,
    /// The baseline's.
    pub baseline_mean: f64,
    /// Arm minus baseline, paired by seed.
    pub difference: PairedDifference,
    /// What that shows, adjusted (Holm 1979) for all arms by this outcome.
    pub decision: Decision,
}

/// Compares `arms` with the baseline; an outcome that an arm has with no seed is left out for it.
pub(crate) fn compare(config: &CompareConfig, names: &[&str], arms: &[ArmResult]) -> Result<Comparison> {
    let of = |name: &str| arms.iter().filter(|a| a.name == name).collect::<Vec<_>>();
    let baseline = of(&config.baseline);
    let others = names.iter().filter(|name| **name != config.baseline && config.has(name));
    let others: Vec<(&str, Vec<&ArmResult>)> = others.map(|name| (*name, of(name))).collect();
    let sides: Vec<Sides<'_>> = others.iter().map(|(name, arm)| (*name, &baseline[..], &arm[..])).collect();
    let mut effects = Vec::new();
    for outcome in &config.outcomes {
        effects.extend(compare_pairs(*outcome, &sides)?.into_iter().map(|(_, effect)| effect));
    }
    Ok(Comparison { baseline: config.baseline.clone(), effects })
}

/// The name of an arm, the seeds of its baseline, and its own.
pub(crate) type Sides<'a> = (&'a str, &'a [&'a ArmResult], &'a [&'a ArmResult]);

/// One family of comparisons by one outcome, each with its place among `sides`, over the seeds with which both have a finite
/// number; those that have no such seed in common are left out.
pub(crate) fn compare_pairs(outcome: Outcome, sides: &[Sides<'_>]) -> Result<Vec<(usize, Effect)>> {
    let direction = outcome.direction();
    let mut family = Vec::new();
    for (place, (name, baseline, arm)) in sides.iter().enumerate() {
        let pairs = arm.iter().filter_map(|a| {
            let b = baseline.iter().find(|b| b.seed == a.seed)?;
            let pair = (outcome.of(b)?, outcome.of(a)?);
            (pair.0.is_finite() && pair.1.is_finite()).then_some(pair)
        });
        let (baseline, arm): (Vec<f64>, Vec<f64>) = pairs.unzip();
        if !arm.is_empty() {
            let difference = paired(&baseline, &arm, Options::default())?;
            family.push((place, *name, mean(&baseline), mean(&arm), difference));
        }
    }
    let judged: Vec<_> = family.iter().map(|f| (f.4, direction)).collect();
    let decisions = decide(&judged)?;
    let effects = family.into_iter().zip(decisions).map(|(of, decision)| {
        let (place, name, baseline_mean, mean, difference) = of;
        let arm = name.to_owned();
        (place, Effect { outcome, direction, arm, mean, baseline_mean, difference, decision })
    });
    Ok(effects.collect())
}

/// Four decimals, or three digits of what would be lost.
pub(crate) fn number(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-3 { format!("{value:.2e}") } else { format!("{value:.4}") }
}

/// The same with its sign.
pub(crate) fn signed(value: f64) -> String {
    if value > 0.0 { format!("+{}", number(value)) } else { number(value) }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
