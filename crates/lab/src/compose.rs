//! Samples that are asked for combinations of conditions, and the share of them that is as asked.

mod config;
mod measure;

pub use config::{AskedConfig, ComposeConfig};

pub(crate) use config::Asked;
pub(crate) use measure::compose;

use crate::result::ArmResult;
use heldout_core::{Estimate, Measurement};
use heldout_features::DecodedClass;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What samples that were asked for combinations are, by a decoder of attributes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComposedResult {
    /// How well the decoder tells each class of held-out images. It is trained on the training images, those included
    /// that `data.exclude` keeps from the model.
    pub decoder: Vec<DecodedClass>,
    /// In the order of their names.
    pub asked: Vec<AskedResult>,
}

/// Samples that were asked for one combination. Intervals are Wilson's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AskedResult {
    /// Its name in the recipe.
    pub name: String,
    /// What was asked for.
    pub asked: String,
    /// Training images of the model that are so: 0 of a combination that it has never seen.
    pub n_train: usize,
    /// Share of the samples that are as asked.
    pub as_asked: Estimate,
    /// The floor: the same of as many samples of the same noise that were asked for nothing.
    pub unconditional: Estimate,
    /// What the decoder leaves room for: the same of held-out images that are so; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<Estimate>,
    /// Share of the samples that have each class that was named; where conditions fail one by one, the share as asked is
    /// the product of these (Okawa et al. 2023, section 4).
    pub classes: BTreeMap<String, f64>,
    /// Memorised fraction of the samples, with its floor.
    pub f_mem: Measurement,
}

impl ComposedResult {
    /// Share of the samples as asked, the mean over what was asked for.
    pub(crate) fn mean(&self) -> f64 {
        self.asked.iter().map(|a| a.as_asked.value).sum::<f64>() / self.asked.len() as f64
    }
}

/// What samples that were asked for combinations are, in lines for the report.
pub(crate) fn lines(r: &ArmResult) -> Vec<String> {
    let Some(composed) = &r.composed else { return Vec::new() };
    let arm = format!("{} seed {}", r.name, r.seed);
    let told = |e: Estimate| format!("{:.3} ({:.3} to {:.3})", e.value, e.lower, e.upper);
    let asked = composed.asked.iter().map(|a| {
        let classes: Vec<String> = a.classes.iter().map(|(name, share)| format!("{name} {share:.3}")).collect();
        format!(
            "{arm}, asked for {} ({}; {} training images are so): {} of samples are, {} of those asked for nothing; of \
             held-out images that are so the decoder says it of {}; by class: {}; copies {:.3} (floor {:.3})",
            a.name,
            a.asked,
            a.n_train,
            told(a.as_asked),
            told(a.unconditional),
            a.held_out.map_or_else(|| "none, since there is none".to_owned(), told),
            classes.join(", "),
            a.f_mem.model.value,
            a.f_mem.floor.value
        )
    });
    let or = |x: Option<f64>| x.map_or_else(|| "–".to_owned(), |x| format!("{x:.3}"));
    let decoded = composed.decoder.iter().map(|d| {
        let (with, without) = (or(d.sensitivity), or(d.specificity));
        format!("{} {:.3} (with it {with}, without {without})", d.class, d.accuracy)
    });
    let decoded = decoded.collect::<Vec<_>>().join(", ");
    asked.chain([format!("{arm}, the decoder is right on held-out images: {decoded}")]).collect()
}

/// What each arm gives when it is asked for combinations, means over the seeds.
pub(crate) fn answer(arms: &[&str], results: &[ArmResult]) -> Option<String> {
    let of_arm = |arm: &&str| {
        let of: Vec<&ComposedResult> =
            results.iter().filter(|r| r.name == *arm).filter_map(|r| r.composed.as_ref()).collect();
        let first = of.first()?;
        let clause = |asked: &AskedResult| {
            let all = || of.iter().flat_map(|c| &c.asked).filter(|a| a.name == asked.name);
            let mean = |x: fn(&AskedResult) -> f64| all().map(x).sum::<f64>() / all().count() as f64;
            let (ours, floor) = (mean(|a| a.as_asked.value), mean(|a| a.unconditional.value));
            let n = asked.n_train;
            format!("{} {ours:.3} (asked for nothing {floor:.3}, {n} training images)", asked.name)
        };
        Some(format!("{arm}: {}", first.asked.iter().map(clause).collect::<Vec<_>>().join(", ")))
    };
    let said: Vec<String> = arms.iter().filter_map(of_arm).collect();
    (!said.is_empty()).then(|| format!("Share of samples as asked of {}.", said.join("; ")))
}
