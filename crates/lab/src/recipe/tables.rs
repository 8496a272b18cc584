//! Recipes as tables: files, fragments, and settings.

use anyhow::{Context, Result, anyhow, bail};
use heldout_core::Error;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use toml::{Table, Value};

/// The table of a recipe with fragments merged into it, and with what is set.
pub(super) fn with_fragments(mut table: Table, fragments: &[PathBuf], sets: &[String]) -> Result<Table> {
    let own = table.get("regularization").cloned();
    let mut lists = Table::new();
    let mut said = Vec::new();
    for fragment in fragments {
        let change = read_table(fragment)?;
        join_lists(&mut lists, change.get("regularization"));
        agree(&mut said, fragment, "", &change)?;
        let mut merged = Value::Table(table);
        merge(&mut merged, Value::Table(change));
        table = merged.try_into()?;
    }
    let averages = take_averages(&mut lists);
    join_lists(&mut lists, own.as_ref());
    join_lists(&mut lists, Some(&averages));
    if !fragments.is_empty() {
        table.insert("regularization".to_owned(), Value::Table(lists));
    }
    apply_all(&mut table, sets)?;
    Ok(table)
}

/// Reads a file of TOML; an error names the file and the line.
pub(crate) fn read_table(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
    toml::from_str(&text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].lines().count().max(1));
        let reason = format!("line {line}: {}", e.message().lines().next().unwrap_or_default());
        anyhow!(Error::file(path, reason))
    })
}

/// Puts what `behind` lists under a key after what is listed there already.
fn join_lists(lists: &mut Table, behind: Option<&Value>) {
    for (key, value) in behind.and_then(Value::as_table).into_iter().flatten() {
        match (lists.get_mut(key), value) {
            (Some(Value::Array(first)), Value::Array(rest)) => first.extend(rest.iter().cloned()),
            (Some(_), _) => {}
            (None, value) => drop(lists.insert(key.clone(), value.clone())),
        }
    }
}

/// Averages of weights go outside what the recipe has, since the outermost is evaluated: inside, they would be added in vain.
fn take_averages(lists: &mut Table) -> Value {
    let is_average = |technique: &mut Value| {
        matches!(technique.get("kind").and_then(Value::as_str), Some("ema" | "power_ema" | "swa"))
    };
    let weights = lists.get_mut("weights").and_then(Value::as_array_mut);
    let averages: Vec<Value> = weights.map_or_else(Vec::new, |w| w.extract_if(.., is_average).collect());
    let listed = (!averages.is_empty()).then(|| ("weights".to_owned(), Value::Array(averages)));
    Value::Table(Table::from_iter(listed))
}

/// Two fragments that set one key to different values are refused: the last would win in silence. `said` has what the earlier ones set.
fn agree(
    said: &mut Vec<(String, Value, PathBuf)>,
    fragment: &Path,
    within: &str,
    change: &Table,
) -> Result<()> {
    for (key, value) in change.iter().filter(|(key, _)| !(within.is_empty() && *key == "regularization")) {
        let key = format!("{within}{key}");
        if let Value::Table(inner) = value {
            agree(said, fragment, &format!("{key}."), inner)?;
            continue;
        }
        if let Some((_, other, by)) = said.iter().find(|(k, other, _)| *k == key && other != value) {
            let reason = format!(
                "{other} by {}, and {value} by {}: use one of them",
                by.display(),
                fragment.display()
            );
            return Err(anyhow!(Error::config(key, reason)));
        }
        said.push((key, value.clone(), fragment.to_owned()));
    }
    Ok(())
}

/// Takes a value out of a table, and reads it.
pub(super) fn take<T: DeserializeOwned>(table: &mut Table, key: &str) -> Result<T> {
    take_if_there(table, key)?.ok_or_else(|| anyhow!(Error::config(key, "is missing")))
}

/// The same of a value that may be left out.
pub(super) fn take_if_there<T: DeserializeOwned>(table: &mut Table, key: &str) -> Result<Option<T>> {
    let Some(value) = table.remove(key) else { return Ok(None) };
    T::deserialize(value).map(Some).map_err(|e| anyhow!(Error::config(key, one_line(e.message()))))
}

/// The same of a table, whose errors name the key within it.
pub(super) fn take_checked<T: DeserializeOwned>(table: &mut Table, key: &str) -> Result<Option<T>> {
    let Some(value) = table.remove(key) else { return Ok(None) };
    parse(value).map(Some).map_err(|e| match e.downcast::<Error>() {
        Ok(e) => anyhow!(e.within(key)),
        Err(e) => e,
    })
}

/// Reads a recipe; an error names the whole path of the key.
pub(crate) fn parse<T: DeserializeOwned>(value: Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let path = if path == "." { "recipe".to_owned() } else { path };
        anyhow!(Error::config(path, one_line(e.inner().message())))
    })
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

fn parse_value(text: &str) -> Value {
    let table = toml::from_str::<Table>(&format!("value = {text}")).ok();
    table.and_then(|mut t| t.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Applies `KEY=VALUE`, one after the other.
pub(crate) fn apply_all(table: &mut Table, sets: &[String]) -> Result<()> {
    sets.iter().try_for_each(|set| {
        let (key, value) = set.split_once('=').ok_or_else(|| {
            anyhow!(Error::config(format!("--set {set}"), "is not KEY=VALUE, as in train.steps=100"))
        })?;
        apply(table, key, parse_value(value))
    })
}

/// Sets `key` (dotted) to `value`; where the key is one of the base, the arms and the grid lose their say in it.
fn apply(table: &mut Table, key: &str, value: Value) -> Result<()> {
    let path: Vec<&str> = key.split('.').collect();
    if path[0] != "arms" && path[0] != "grid" {
        if let Some(Value::Table(arms)) = table.get_mut("arms") {
            arms.iter_mut().for_each(|(_, change)| forget(change, &path));
        }
        if let Some(Value::Table(grid)) = table.get_mut("grid") {
            grid.retain(|_, axis| axis.get("key").and_then(Value::as_str) != Some(key));
        }
    }
    insert(table, &format!("--set {key}"), key, value)
}

/// Puts a value at a dotted key, making the tables on the way; an error calls it `field`.
pub(super) fn insert(table: &mut Table, field: &str, key: &str, value: Value) -> Result<()> {
    let path: Vec<&str> = key.split('.').collect();
    if path.iter().any(|part| part.is_empty()) {
        bail!(Error::config(field, format!("`{key}` is not a dotted key, as train.steps")));
    }
    let mut place = table;
    for part in &path[..path.len() - 1] {
        let next = place.entry((*part).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        place = next
            .as_table_mut()
            .ok_or_else(|| anyhow!(Error::config(field, format!("`{part}` is not a table"))))?;
    }
    place.insert(path[path.len() - 1].to_owned(), value);
    Ok(())
}

fn forget(value: &mut Value, path: &[&str]) {
    if let (Some(table), [first, rest @ ..]) = (value.as_table_mut(), path) {
        match rest {
            [] => drop(table.remove(*first)),
            _ => table.get_mut(*first).into_iter().for_each(|inner| forget(inner, rest)),
        }
    }
}

/// Tables are merged key by key, anything else is replaced; so is a table whose `kind` changes.
pub(super) fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Table(into), Value::Table(change)) if !changes_kind(into, &change) => {
            for (key, value) in change {
                match into.get_mut(&key) {
                    Some(old) => merge(old, value),
                    None => drop(into.insert(key, value)),
                }
            }
        }
        (into, change) => *into = change,
    }
}

fn changes_kind(into: &Table, change: &Table) -> bool {
    change.get("kind").is_some_and(|kind| into.get("kind") != Some(kind))
}
