//! `heldout compare`: arms of one name in several runs, paired by seed.

use crate::compare::{Effect, Outcome, Sides, compare_pairs};
use crate::recipe::read_table;
use crate::result::{ArmResult, StudyResult};
use crate::run::{STUDY, read_json};
use crate::study::{ARM, task_folder};
use anyhow::{Result, bail};
use heldout_core::Error;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The first run beside every other one.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunComparison {
    /// The first run.
    pub baseline: PathBuf,
    /// One for every other run and every arm that it has in common with the first.
    pub pairs: Vec<ArmPair>,
    /// What a reader should know.
    pub notes: Vec<String>,
}

/// One arm of the first run beside one of another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ArmPair {
    /// The other run.
    pub run: PathBuf,
    /// The arm there.
    pub arm: String,
    /// What its recipe has where the first run's has something else: key, value there, value here; `none` for a key that is
    /// not there.
    pub changes: Vec<[String; 3]>,
    /// By every outcome that both have, over the seeds that both have.
    pub effects: Vec<Effect>,
}

/// Tables of a recipe that numbers depend on however the model was trained.
const MEASURES: [&str; 4] = ["data.", "validation.", "monitor.", "sample."];

/// Compares arms of one name; where both runs have one arm only, those. Holm's correction is over all arms of an outcome.
pub fn compare_runs(runs: &[PathBuf], outcomes: &[Outcome]) -> Result<RunComparison> {
    let [first, others @ ..] = runs else {
        bail!(Error::config("RUN", "two runs at least are compared"));
    };
    let baseline = read(first)?;
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    let others = others.iter().map(|run| Ok((run, read(run)?))).collect::<Result<Vec<_>>>()?;
    for (run, other) in &others {
        let pairs = common(&baseline, other);
        if pairs.is_empty() {
            let (here, there) = (names(&baseline).join(", "), names(other).join(", "));
            let reason = format!("has no arm in common with {}: {there} there, {here} here", first.display());
            bail!(Error::file(*run, reason));
        }
        for (ours, theirs) in pairs {
            let changes = changes(&recipe(first, &baseline, ours)?, &recipe(run, other, theirs)?);
            let unlike: Vec<&str> = changes
                .iter()
                .map(|c| c[0].as_str())
                .filter(|key| MEASURES.iter().any(|table| key.starts_with(table)))
                .collect();
            if !unlike.is_empty() {
                notes.push(format!(
                    "{theirs} of {} was measured otherwise ({}): its numbers may differ for that alone",
                    run.display(),
                    unlike.join(", ")
                ));
            }
            found.push(((*run).clone(), theirs.to_owned(), changes, of(&baseline, ours), of(other, theirs)));
        }
    }
    let mut pairs: Vec<ArmPair> = found
        .iter()
        .map(|(run, arm, changes, ..)| ArmPair {
            run: run.clone(),
            arm: arm.clone(),
            changes: changes.clone(),
            effects: Vec::new(),
        })
        .collect();
    for outcome in outcomes {
        let sides: Vec<Sides<'_>> =
            found.iter().map(|(_, arm, _, ours, theirs)| (arm.as_str(), &ours[..], &theirs[..])).collect();
        for (place, effect) in compare_pairs(*outcome, &sides)? {
            pairs[place].effects.push(effect);
        }
    }
    if let Some(lonely) = pairs.iter().find(|p| p.effects.is_empty()) {
        let reason = format!("{} has no seed and outcome in common with {}", lonely.arm, first.display());
        bail!(Error::file(&lonely.run, reason));
    }
    Ok(RunComparison { baseline: first.clone(), pairs, notes })
}

fn read(run: &Path) -> Result<StudyResult> {
    let path = run.join(STUDY);
    if !path.is_file() {
        bail!(Error::file(run, "holds no study.json: it is no run folder, or its study is not finished"));
    }
    let study: StudyResult = read_json(&path)?;
    if study.arms.is_empty() {
        bail!(Error::file(path, "no arm has a result"));
    }
    Ok(study)
}

fn names(study: &StudyResult) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for arm in &study.arms {
        if !names.contains(&arm.name.as_str()) {
            names.push(&arm.name);
        }
    }
    names
}

fn of<'a>(study: &'a StudyResult, name: &str) -> Vec<&'a ArmResult> {
    study.arms.iter().filter(|a| a.name == name).collect()
}

/// Names of arms, here and there.
fn common<'a>(here: &'a StudyResult, there: &'a StudyResult) -> Vec<(&'a str, &'a str)> {
    let (ours, theirs) = (names(here), names(there));
    match (&ours[..], &theirs[..]) {
        ([one], [other]) => vec![(*one, *other)],
        _ => ours.iter().filter_map(|name| Some((*name, *theirs.iter().find(|t| *t == name)?))).collect(),
    }
}

fn recipe(run: &Path, study: &StudyResult, arm: &str) -> Result<Table> {
    let seed = study.arms.iter().find(|a| a.name == arm).map_or(0, |a| a.seed);
    read_table(&task_folder(run, arm, seed).join(ARM))
}

/// Where two recipes differ.
fn changes(here: &Table, there: &Table) -> Vec<[String; 3]> {
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    flatten("", here, &mut ours);
    flatten("", there, &mut theirs);
    let mut keys: Vec<&String> = ours.keys().chain(theirs.keys()).collect();
    keys.sort();
    keys.dedup();
    let told = |side: &BTreeMap<String, String>, key: &str| {
        side.get(key).cloned().unwrap_or_else(|| "none".to_owned())
    };
    let differ = keys.into_iter().filter(|key| ours.get(*key) != theirs.get(*key));
    differ.map(|key| [key.clone(), told(&ours, key), told(&theirs, key)]).collect()
}

fn flatten(prefix: &str, table: &Table, into: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Table(inner) => flatten(&path, inner, into),
            value => drop(into.insert(path, value.to_string())),
        }
    }
}
