//! The answer of a study in a sentence, from the figures alone.

use crate::adapter::AdapterResult;
use crate::analysis::AnalysisResult;
use crate::compare::{Comparison, Effect, signed};
use crate::compose;
use crate::recipe::Study;
use crate::result::{ArmFailure, ArmResult};
use heldout_statistics::Evidence;
use std::collections::BTreeMap;

/// What the study asks, answered: by samples of combinations, by its analysis, by its comparison, or else by who copies.
pub(crate) fn verdict(
    study: &Study,
    results: &[ArmResult],
    comparison: Option<&Comparison>,
    analysis: Option<&AnalysisResult>,
    failures: &[ArmFailure],
) -> String {
    let arms: Vec<&str> = study.arms.iter().map(|(name, _)| name.as_str()).collect();
    let composed = compose::answer(&arms, results);
    let analysed = analysis.map(AnalysisResult::answer);
    let compared = comparison.map(effects);
    // How far networks look answers no question by itself.
    let [first, then] = match analysis {
        Some(AnalysisResult::ReceptiveField(_)) => [compared, analysed],
        _ => [analysed, compared],
    };
    let mut said: Vec<String> = composed.into_iter().chain(first).chain(then).collect();
    if said.is_empty() && !results.is_empty() {
        said.push(copies(study, results));
    }
    said.extend(lost(failures));
    said.join(" ")
}

/// Arms that the answer knows nothing of, with their seeds.
fn lost(failures: &[ArmFailure]) -> Option<String> {
    let mut arms: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for f in failures {
        arms.entry(&f.name).or_default().push(f.seed.to_string());
    }
    let told: Vec<String> =
        arms.iter().map(|(arm, seeds)| format!("{arm} (seed {})", seeds.join(", "))).collect();
    (!told.is_empty()).then(|| format!("Without a result: {}.", told.join("; ")))
}

/// Which arms differ from the baseline by the first outcome.
fn effects(comparison: &Comparison) -> String {
    let Some(first) = comparison.effects.first() else {
        return format!("No arm has a seed in common with {}.", comparison.baseline);
    };
    let of_first = || comparison.effects.iter().filter(|e| e.outcome == first.outcome);
    let seeds = of_first().map(|e| e.difference.n).max().unwrap_or(0);
    let clause = |evidence: Evidence| {
        let of = of_first().filter(|e| e.decision.evidence == evidence);
        let arms: Vec<String> = of.map(|e| told(e, seeds)).collect();
        (!arms.is_empty()).then(|| format!("{evidence}: {}", arms.join(", ")))
    };
    use Evidence::{Better, EqualDifferences, NoEvidence, OneSeed, Worse};
    let clauses: Vec<String> =
        [Better, Worse, NoEvidence, EqualDifferences, OneSeed].into_iter().filter_map(clause).collect();
    let plural = if seeds == 1 { "" } else { "s" };
    format!(
        "By {}, beside {} over {seeds} seed{plural}: {}.",
        first.outcome.title(),
        comparison.baseline,
        clauses.join("; ")
    )
}

/// An arm that has fewer than all `seeds` says so.
fn told(e: &Effect, seeds: usize) -> String {
    let mean = signed(e.difference.mean);
    let interval = e.difference.interval;
    let interval =
        interval.map_or_else(String::new, |i| format!(", 95 % {} to {}", signed(i.lower), signed(i.upper)));
    let n = e.difference.n;
    let of = if n < seeds { format!(", {n} of the seeds") } else { String::new() };
    format!("{} ({mean}{interval}{of})", e.arm)
}

/// Who copies, and who follows what it is given.
fn copies(study: &Study, results: &[ArmResult]) -> String {
    let mean = |x: &dyn Fn(&ArmResult) -> f64, name: &str| {
        let of: Vec<f64> = results.iter().filter(|r| r.name == name).map(x).collect();
        of.iter().sum::<f64>() / of.len().max(1) as f64
    };
    let mut clauses = Vec::new();
    let (mut copies, mut makes) = (false, false);
    for (name, recipe) in study.arms.iter().filter(|(name, _)| results.iter().any(|r| r.name == *name)) {
        let (f_mem, floor) = (mean(&|r| r.f_mem, name), mean(&|r| r.f_mem_floor, name));
        let does = if f_mem >= 0.5 {
            copies = true;
            "copies its training images"
        } else if f_mem <= floor + 0.02 {
            makes = true;
            "makes images that are not copies"
        } else {
            "copies some of its training images"
        };
        let n = recipe.data.split.n_train;
        clauses.push(format!("from {n} images {name} {does} (f_mem {f_mem:.2}, floor {floor:.2})"));
        if results.iter().any(|r| r.name == *name && r.adapter.is_some()) {
            let f1 = |of: fn(&AdapterResult) -> f64| mean(&|r| r.adapter.as_ref().map_or(0.0, of), name);
            let (ours, theirs) = (f1(|a| a.edge_f1), f1(|a| a.edge_f1_unconditional));
            clauses.push(format!(
                "with {name} its edges are where they should be with F1 {ours:.2}, without with {theirs:.2}"
            ));
        }
    }
    let adapted = results.iter().any(|r| r.adapter.is_some());
    let answer = match (study.arms.len(), copies && makes) {
        (1, _) => "",
        _ if adapted => "",
        (_, true) => "Yes: ",
        (_, false) => "Not here: ",
    };
    let seeds =
        if study.seeds.len() > 1 { format!(", mean of {} seeds", study.seeds.len()) } else { String::new() };
    format!("{answer}{}{seeds}.", clauses.join("; "))
}
