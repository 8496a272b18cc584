//! JSON schemas of the files that people write and programs read; `docs/schema` holds them.

mod change;

use crate::analysis::AnalysisConfig;
use crate::autoencoder::AutoencoderRecipe;
use crate::compare::CompareConfig;
use crate::recipe::{Axis, Recipe};
use crate::result::StudyResult;
use crate::study::Equal;
use anyhow::{Context, Result};
use change::{as_change, without_unused};
use clap::ValueEnum;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A kind of file that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FileKind {
    /// A study, as in recipes
    Recipe,
    /// What `--with` adds to a recipe, as in recipes/with
    Fragment,
    /// How an autoencoder is trained, as in recipes/autoencoders
    Autoencoder,
    /// study.json of a run
    Study,
}

/// A recipe: a base, named changes to it, and seeds.
///
/// What a table lacks may come from an arm, from the grid or from a fragment, so that nothing in it is required:
/// whether anything is missing says `heldout experiment RECIPE --check`.
#[derive(JsonSchema)]
#[schemars(title = "Recipe of a study", deny_unknown_fields)]
#[schemars(extend("if" = {"not": {"required": ["grid"]}}, "then" = {"required": ["arms"]}))]
#[expect(dead_code, reason = "it is the outline of a file; `Study::from_table` reads it")]
struct RecipeFile {
    /// Short name, that of the run folder.
    name: String,
    /// What it asks.
    question: String,
    /// One run of every arm for each.
    #[schemars(length(min = 1))]
    seeds: Vec<u64>,
    /// Whether arms have as many steps, or as many multiply-adds.
    equal: Option<Equal>,
    /// Every arm beside one of them; not compared if absent.
    compare: Option<CompareConfig>,
    /// What is asked beyond that.
    analysis: Option<AnalysisConfig>,
    /// Named changes to the base; names are letters, digits, - and _.
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z0-9_-]+$"}))]
    arms: Option<BTreeMap<String, Arm>>,
    /// Every arm with every value of every axis; the last axis changes first.
    grid: Option<BTreeMap<String, Axis>>,
}

/// What an arm changes. Tables are merged key by key; anything else is replaced, and so is a table whose `kind`
/// changes.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
#[expect(dead_code, reason = "as above")]
struct Arm {
    /// Techniques of recipes/with, or paths of files like them, that come before the change.
    with: Option<Vec<String>>,
}

/// The JSON schema (2020-12) of a kind of file, as text; a function of this program alone.
pub fn schema(kind: FileKind) -> Result<String> {
    let whole = match kind {
        FileKind::Recipe => recipe()?,
        FileKind::Fragment => titled("Fragment of a recipe", fragment()),
        FileKind::Autoencoder => {
            titled("Recipe of an autoencoder", of_toml().into_root_schema_for::<AutoencoderRecipe>())
        }
        FileKind::Study => {
            let settings = SchemaSettings::draft2020_12().for_serialize();
            let settings = settings.with_transform(RecursiveTransform(plain));
            titled("study.json", settings.into_generator().into_root_schema_for::<StudyResult>())
        }
    };
    Ok(serde_json::to_string_pretty(&without_unused(whole))?)
}

/// The outline of the file, whose tables and those of its arms are changes: a whole recipe once they are merged.
fn recipe() -> Result<Schema> {
    let mut generator = of_toml();
    generator.subschema_for::<Recipe>();
    let mut file = generator.into_root_schema_for::<RecipeFile>();
    let definitions = definitions(&mut file);
    let base = definitions.get("Recipe").cloned().unwrap_or_default();
    let (base, mut definitions) = as_change(&base, definitions);
    let tables = base.get("properties").and_then(Value::as_object).context("a recipe has tables")?;
    let arm = definitions.get_mut("Arm").and_then(|arm| arm.get_mut("properties"));
    for outline in [arm, file.get_mut("properties")] {
        let keys = outline.and_then(Value::as_object_mut).context("an outline has keys")?;
        keys.extend(tables.clone());
    }
    file.insert("$defs".to_owned(), definitions.into());
    Ok(file)
}

fn fragment() -> Schema {
    let mut whole = of_toml().into_root_schema_for::<Recipe>();
    let definitions = definitions(&mut whole);
    let (mut change, definitions) = as_change(whole.as_value(), definitions);
    let merged = "Tables are merged into those of a recipe; what lists of techniques hold comes before the \
                  recipe's own.";
    change.insert("description".to_owned(), merged.into());
    change.insert("$defs".to_owned(), definitions.into());
    change.into()
}

fn definitions(schema: &mut Schema) -> Map<String, Value> {
    match schema.remove("$defs") {
        Some(Value::Object(all)) => all,
        _ => Map::new(),
    }
}

fn titled(title: &str, mut schema: Schema) -> Schema {
    schema.insert("title".to_owned(), title.into());
    schema
}

/// Schemas of what is read from TOML, which has no null.
fn of_toml() -> SchemaGenerator {
    let settings = SchemaSettings::draft2020_12().with_transform(RecursiveTransform(without_null));
    settings.with_transform(RecursiveTransform(plain)).into_generator()
}

fn without_null(schema: &mut Schema) {
    if schema.get("default").is_some_and(Value::is_null) {
        schema.remove("default");
    }
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = &types[..] {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    if let Some(Value::Array(names)) = schema.get_mut("enum") {
        names.retain(|name| !name.is_null());
    }
    let null = json_schema!({ "type": "null" });
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        choices.retain(|choice| choice != null.as_value());
        if let [Value::Object(only)] = &choices[..] {
            let only = only.clone();
            schema.remove("anyOf");
            for (key, value) in only {
                if schema.get(&key).is_none() {
                    schema.insert(key, value);
                }
            }
        }
    }
}

/// Descriptions are doc comments, whose links lead nowhere outside of Rust; one that is nothing else says nothing.
/// Formats are widths of Rust's numbers, which strict validators do not know.
fn plain(schema: &mut Schema) {
    schema.remove("format");
    if let Some(Value::String(text)) = schema.get_mut("description") {
        *text = text.replace("[`", "`").replace("`]", "`").replace("`crate::", "`");
        if text.starts_with('`') && text.ends_with("`.") && !text.contains(' ') {
            schema.remove("description");
        }
    }
}
