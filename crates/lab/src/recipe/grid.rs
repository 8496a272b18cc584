//! Arms as the product of what changes.

use super::tables::{insert, take_checked};
use anyhow::{Result, bail};
use heldout_core::Error;
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// One key of a recipe, and the values that it takes in turn.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Axis {
    /// Dotted, as `data.split.n_train`.
    key: String,
    /// One arm for each.
    #[schemars(with = "Vec<serde_json::Value>", length(min = 1))]
    values: Vec<Value>,
}

/// Where an arm stands in a grid: its arm of the recipe, where there are any, and its value on every axis.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Place {
    /// What the recipe calls it.
    pub arm: Option<String>,
    /// Value by axis.
    pub values: BTreeMap<String, Value>,
}

/// An arm before its recipe is made: its name, what it changes, and where it stands.
pub(super) type Change = (String, Value, Place);

/// Every arm with every value of every axis; the last axis changes first.
pub(super) fn expand(arms: Table, grid: Table) -> Result<Vec<Change>> {
    let named = arms
        .into_iter()
        .map(|(name, change)| (name.clone(), change, Place { arm: Some(name), ..Place::default() }));
    let mut all: Vec<Change> = named.collect();
    if all.is_empty() && !grid.is_empty() {
        all.push((String::new(), Value::Table(Table::new()), Place::default()));
    }
    let mut axes = grid.clone();
    for (name, _) in grid {
        let Some(Axis { key, values }) = take_checked(&mut axes, &name)? else { continue };
        if values.is_empty() {
            bail!(Error::config(format!("grid.{name}.values"), "at least one value is needed"));
        }
        let mut next = Vec::new();
        for (arm, change, place) in &all {
            for value in &values {
                let mut change = change.clone();
                if let Value::Table(table) = &mut change {
                    insert(table, &format!("grid.{name}.key"), &key, value.clone())?;
                }
                let mut place = place.clone();
                place.values.insert(name.clone(), value.clone());
                let own = format!("{name}{}", label(value));
                let arm = if arm.is_empty() { own } else { format!("{arm}-{own}") };
                next.push((arm, change, place));
            }
        }
        all = next;
    }
    let names: Vec<&String> = all.iter().map(|(name, ..)| name).collect();
    if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        bail!(Error::config("grid", format!("`{}` comes twice: give each arm and value once", twice.1)));
    }
    Ok(all)
}

/// A value in the name of a folder: `[16, 32]` is `16x32`.
fn label(value: &Value) -> String {
    let text = match value {
        Value::Array(values) => values.iter().map(label).collect::<Vec<_>>().join("x"),
        Value::String(text) => text.clone(),
        Value::Table(table) => match table.get("kind") {
            Some(Value::String(kind)) => kind.clone(),
            _ => table.values().map(label).collect::<Vec<_>>().join("_"),
        },
        other => other.to_string(),
    };
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}
