//! The fields of a `config.json`.

use heldout_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::path::Path;

/// A configuration from its fields; an error names the path of the wrong one.
pub(crate) fn read<T: DeserializeOwned>(fields: Value) -> Result<T> {
    serde_path_to_error::deserialize(fields).map_err(|e| {
        let path = e.path().to_string();
        let path = if path == "." { "config.json".to_owned() } else { path };
        Error::config(path, e.inner().to_string())
    })
}

/// Drops the fields of diffusers' older, general transformer that mean nothing for a DiT; one that means something is an
/// error.
pub(crate) fn old_transformer(fields: &mut Map<String, Value>) -> Result<()> {
    const UNUSED: [&str; 9] = [
        "cross_attention_dim",
        "double_self_attention",
        "num_vector_embeds",
        "only_cross_attention",
        "use_linear_projection",
        "attention_type",
        "caption_channels",
        "interpolation_scale",
        "use_additional_conditions",
    ];
    for field in UNUSED {
        let value = fields.remove(field).unwrap_or_default();
        if !(value.is_null() || value == Value::Bool(false) || value == "default") {
            return Err(Error::config(field, format!("{value}: a DiT has none")));
        }
    }
    Ok(())
}

/// The fields of a `config.json` with its class, and without the others that tell of the file.
pub(crate) fn with_class_only(config: &Map<String, Value>) -> Value {
    let mut fields = config.clone();
    fields.retain(|name, _| name == "_class_name" || !name.starts_with('_'));
    Value::Object(fields)
}

/// Names the file in whose configuration a field is wrong.
pub(crate) fn at(path: &Path, error: Error) -> Error {
    match error {
        Error::Config { field, reason } => Error::file(path, format!("{field}: {reason}")),
        other => other,
    }
}

/// The fields without those that tell of the file.
pub(crate) fn without_class(mut fields: Map<String, Value>) -> Value {
    fields.retain(|name, _| !name.starts_with('_'));
    Value::Object(fields)
}
