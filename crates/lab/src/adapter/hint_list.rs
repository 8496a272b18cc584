//! What an adapter of a recipe looks at: one hint, or a list of them.

use heldout_adapters::hints::{Hint, HintTechnique};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;

/// One hint, or several whose channels lie side by side; in a recipe a table or an array of tables.
#[derive(Debug, Clone, PartialEq)]
pub struct HintList(Vec<HintTechnique>);

impl HintList {
    /// All of them, at least one.
    pub fn all(&self) -> &[HintTechnique] {
        &self.0
    }

    /// Channels, for images of this many.
    pub fn channels(&self, of_images: i64) -> i64 {
        self.0.iter().map(|hint| hint.channels(of_images)).sum()
    }
}

impl JsonSchema for HintList {
    fn schema_name() -> Cow<'static, str> {
        "HintList".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let hint = generator.subschema_for::<HintTechnique>();
        json_schema!({
            "description": "One hint, or several whose channels lie side by side.",
            "anyOf": [hint, { "type": "array", "items": hint, "minItems": 1 }],
        })
    }
}

impl From<HintTechnique> for HintList {
    fn from(hint: HintTechnique) -> Self {
        Self(vec![hint])
    }
}

impl Serialize for HintList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0[..] {
            [one] => one.serialize(serializer),
            several => several.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for HintList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrSeveral)
    }
}

/// An untagged enum would say of a hint that is misspelt only that it fits no variant.
struct OneOrSeveral;

impl<'de> Visitor<'de> for OneOrSeveral {
    type Value = HintList;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a hint, as { kind = \"canny\" }, or a list of hints")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HintList, A::Error> {
        HintTechnique::deserialize(MapAccessDeserializer::new(map)).map(HintList::from)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<HintList, A::Error> {
        let all = Vec::<HintTechnique>::deserialize(SeqAccessDeserializer::new(seq))?;
        if all.is_empty() {
            return Err(A::Error::custom("an empty list of hints: name one at least"));
        }
        Ok(HintList(all))
    }
}
