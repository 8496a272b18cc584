//! Scalars over a run, as recipes write them.

use crate::{Clock, Curve, Error, Result};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::f64::consts::PI;
use std::fmt;

/// A curve as a recipe writes it: a number, or a table with a `kind`.
///
/// `start` and `end` are shares of the run, 0 and 1 if absent; before and after them the curve stays.
#[derive(Debug, Clone, PartialEq)]
pub enum CurveConfig {
    /// The same all the time.
    Constant(f64),
    /// A straight line.
    Linear(Ramp),
    /// Half a cosine.
    Cosine(Ramp),
    /// `points`, each `[share of the run, value]`, from which on the value holds; the first share is 0, and they rise.
    Steps {
        /// The points.
        points: Vec<[f64; 2]>,
    },
}

/// From one value to another.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Ramp {
    /// The first value.
    pub from: f64,
    /// The last value.
    pub to: f64,
    /// Share of the run at which it begins.
    #[serde(default)]
    pub start: f64,
    /// Share of the run at which it is there.
    #[serde(default = "one")]
    pub end: f64,
}

fn one() -> f64 {
    1.0
}

/// A curve as a table.
#[derive(Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "CurveTable"))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
enum Table {
    /// A straight line.
    Linear(Ramp),
    /// Half a cosine.
    Cosine(Ramp),
    /// From each point on its value.
    Steps {
        /// `[share of the run, value]`; the first share is 0, and they rise.
        points: Vec<[f64; 2]>,
    },
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for CurveConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CurveConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "A curve over the run: a number, or a table with a `kind`.",
            "anyOf": [{ "type": "number" }, generator.subschema_for::<Table>()],
        })
    }
}

impl Serialize for CurveConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Constant(value) => serializer.serialize_f64(*value),
            Self::Linear(ramp) => Table::Linear(*ramp).serialize(serializer),
            Self::Cosine(ramp) => Table::Cosine(*ramp).serialize(serializer),
            Self::Steps { points } => Table::Steps { points: points.clone() }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for CurveConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = CurveConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or a table with kind = \"linear\", \"cosine\" or \"steps\"")
            }

            fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
                Ok(CurveConfig::Constant(value))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
                Ok(CurveConfig::Constant(value as f64))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
                Ok(CurveConfig::Constant(value as f64))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Ok(match Table::deserialize(MapAccessDeserializer::new(map))? {
                    Table::Linear(ramp) => CurveConfig::Linear(ramp),
                    Table::Cosine(ramp) => CurveConfig::Cosine(ramp),
                    Table::Steps { points } => CurveConfig::Steps { points },
                })
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl CurveConfig {
    /// Whether it stays within `low..=high` over the whole run, or that `field` does not.
    pub fn check(&self, field: &str, low: f64, high: f64) -> Result<()> {
        let fail = |reason: String| Err(Error::config(field, reason));
        let values = match self {
            Self::Constant(value) => vec![*value],
            Self::Linear(ramp) | Self::Cosine(ramp) => {
                if !(0.0 <= ramp.start && ramp.start < ramp.end && ramp.end <= 1.0) {
                    let reason =
                        format!("start {} and end {}: they rise within 0 to 1", ramp.start, ramp.end);
                    return fail(reason);
                }
                vec![ramp.from, ramp.to]
            }
            Self::Steps { points } => {
                let rise = points.windows(2).all(|w| w[0][0] < w[1][0] && w[1][0] < 1.0);
                if !rise || points.first().is_none_or(|p| p[0] != 0.0) {
                    return fail(format!("points {points:?}: shares of the run that rise from 0 to below 1"));
                }
                points.iter().map(|p| p[1]).collect()
            }
        };
        match values.into_iter().find(|v| !(low..=high).contains(v) || !v.is_finite()) {
            None => Ok(()),
            Some(v) if high.is_infinite() => fail(format!("{v} is not a number from {low} up")),
            Some(v) => fail(format!("{v} is not between {low} and {high}")),
        }
    }
}

impl From<f64> for CurveConfig {
    fn from(value: f64) -> Self {
        Self::Constant(value)
    }
}

impl Ramp {
    /// How far it has come, in `[0, 1]`.
    fn share(&self, clock: Clock) -> f64 {
        ((clock.progress() - self.start) / (self.end - self.start)).clamp(0.0, 1.0)
    }
}

impl Curve for CurveConfig {
    fn at(&self, clock: Clock) -> f64 {
        match self {
            Self::Constant(value) => *value,
            Self::Linear(ramp) => ramp.from + (ramp.to - ramp.from) * ramp.share(clock),
            Self::Cosine(ramp) => {
                ramp.from + (ramp.to - ramp.from) * 0.5 * (1.0 - (PI * ramp.share(clock)).cos())
            }
            Self::Steps { points } => {
                let passed = points.iter().take_while(|p| p[0] <= clock.progress()).last();
                passed.or(points.first()).map_or(0.0, |p| p[1])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::CurveConfig;
    use crate::{Clock, Curve};
    use serde_json::{from_value, json, to_value};

    fn values(text: serde_json::Value) -> Vec<f64> {
        let curve: CurveConfig = from_value(text.clone()).unwrap();
        curve.check("strength", 0.0, 1.0).unwrap();
        assert_eq!(from_value::<CurveConfig>(to_value(&curve).unwrap()).unwrap(), curve, "{text}");
        [0, 2, 4, 6, 8].map(|step| curve.at(Clock { step, total: 8 })).to_vec()
    }

    #[test]
    fn curves_are_numbers_or_tables() {
        assert_eq!(values(json!(0.5)), [0.5; 5]);
        assert_eq!(values(json!(1)), [1.0; 5]);
        assert_eq!(values(json!({"kind": "linear", "from": 0.0, "to": 1.0})), [0.0, 0.25, 0.5, 0.75, 1.0]);
        let late = json!({"kind": "linear", "from": 1.0, "to": 0.0, "start": 0.25, "end": 0.75});
        assert_eq!(values(late), [1.0, 1.0, 0.5, 0.0, 0.0]);
        let cosine = values(json!({"kind": "cosine", "from": 0.0, "to": 1.0}));
        assert!((cosine[2] - 0.5).abs() < 1e-12 && cosine[1] < 0.2);
        let steps = json!({"kind": "steps", "points": [[0.0, 0.1], [0.5, 0.9]]});
        assert_eq!(values(steps), [0.1, 0.1, 0.9, 0.9, 0.9]);
    }

    #[test]
    fn what_a_curve_cannot_be_names_the_field() {
        let fails = |text, words: &str| {
            let curve: CurveConfig = from_value(text).unwrap();
            let message = curve.check("strength", 0.0, 1.0).unwrap_err().to_string();
            assert!(message.starts_with("strength: ") && message.contains(words), "{message}");
        };
        fails(json!(1.5), "1.5 is not between 0 and 1");
        fails(json!({"kind": "linear", "from": 0.0, "to": -1.0}), "-1");
        fails(json!({"kind": "linear", "from": 0.0, "to": 1.0, "start": 0.5, "end": 0.5}), "rise");
        fails(json!({"kind": "steps", "points": [[0.1, 1.0]]}), "rise");
        fails(json!({"kind": "steps", "points": []}), "rise");
        assert!(from_value::<CurveConfig>(json!("much")).is_err());
        assert!(
            from_value::<CurveConfig>(json!({"kind": "linear", "from": 0.0, "to": 1.0, "by": 2})).is_err()
        );
    }
}
