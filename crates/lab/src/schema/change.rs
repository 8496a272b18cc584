//! Schemas of changes: of tables that are merged into others.

use schemars::Schema;
use serde_json::{Map, Value};

/// The schema of a change to what `schema` describes, and what there is to refer to, which was `whole`: nothing is
/// required, as deep as tables are merged. A list is replaced as a whole, so that what it holds stays as it was.
pub(super) fn as_change(
    schema: &Value,
    whole: Map<String, Value>,
) -> (Map<String, Value>, Map<String, Value>) {
    let mut changes = Changes { whole, made: Map::new() };
    let change = changes.of(schema).as_object().cloned().unwrap_or_default();
    let mut all = changes.whole;
    all.append(&mut changes.made);
    (change, all)
}

/// The same without definitions that nothing refers to.
pub(super) fn without_unused(mut schema: Schema) -> Schema {
    let Some(Value::Object(mut all)) = schema.remove("$defs") else { return schema };
    let mut used = Map::new();
    let mut open = references(schema.as_value());
    while let Some(name) = open.pop() {
        if let Some(definition) = all.remove(&name) {
            open.extend(references(&definition));
            used.insert(name, definition);
        }
    }
    schema.insert("$defs".to_owned(), used.into());
    schema
}

const HERE: &str = "#/$defs/";

fn references(schema: &Value) -> Vec<String> {
    match schema {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix(HERE));
            own.map(str::to_owned).into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(values) => values.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}

struct Changes {
    whole: Map<String, Value>,
    made: Map<String, Value>,
}

impl Changes {
    fn of(&mut self, schema: &Value) -> Value {
        let Value::Object(fields) = schema else { return schema.clone() };
        let mut change = Map::new();
        for (key, value) in fields {
            let (key, value) = match (key.as_str(), value) {
                ("required", _) => continue,
                ("$ref", Value::String(path)) => (key.as_str(), self.reference(path).into()),
                ("properties", Value::Object(of)) => {
                    let each = of.iter().map(|(name, value)| (name.clone(), self.of(value)));
                    (key.as_str(), Value::Object(each.collect()))
                }
                ("additionalProperties", value) => (key.as_str(), self.of(value)),
                // Without its kind a table is that of several.
                ("oneOf", Value::Array(of)) if !of.iter().all(is_name) => ("anyOf", self.each(of)),
                ("anyOf" | "allOf", Value::Array(of)) => (key.as_str(), self.each(of)),
                (key, value) => (key, value.clone()),
            };
            change.insert(key.to_owned(), value);
        }
        change.into()
    }

    fn each(&mut self, schemas: &[Value]) -> Value {
        schemas.iter().map(|schema| self.of(schema)).collect::<Vec<_>>().into()
    }

    /// Where the change to what is at `path` is described; where that can only be replaced, the place itself.
    fn reference(&mut self, path: &str) -> String {
        let Some(name) = path.strip_prefix(HERE) else { return path.to_owned() };
        let Some(whole) = self.whole.get(name).cloned() else { return path.to_owned() };
        let change_name = format!("{name}Change");
        if !self.made.contains_key(&change_name) {
            self.made.insert(change_name.clone(), Value::Null); // found there where it refers to itself
            let change = self.of(&whole);
            if change == whole {
                self.made.remove(&change_name);
                return path.to_owned();
            }
            self.made.insert(change_name.clone(), change);
        }
        format!("{HERE}{change_name}")
    }
}

fn is_name(schema: &Value) -> bool {
    schema.get("type").is_some_and(|of| of == "string")
}
