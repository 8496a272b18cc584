//! Which layers a LoRA changes, with which rank and scale: peft's `LoraConfig`.

use super::names::is_below;
use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Settings of a LoRA, in the fields and defaults of peft's `LoraConfig`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the change, at least 1.
    pub r: i64,
    /// Its scale is `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Whether the scale is `lora_alpha / sqrt(r)` instead; Kalajdzievski 2023, section 3.
    pub use_rslora: bool,
    /// Names of layers, or their last parts: `to_q`, `attn1.to_out.0`, `down_blocks.0.resnets.0.conv1`.
    pub target_modules: Vec<String>,
    /// Of those, the ones that are left out.
    pub exclude_modules: Vec<String>,
    /// Another rank for some layers, by names as in `target_modules`; a leading `^` asks for the whole name.
    pub rank_pattern: BTreeMap<String, i64>,
    /// Another `lora_alpha` for some layers.
    pub alpha_pattern: BTreeMap<String, f64>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            use_rslora: false,
            target_modules: Vec::new(),
            exclude_modules: Vec::new(),
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
        }
    }
}

/// Fields of peft that say nothing about what a trained LoRA computes.
const WITHOUT_EFFECT: [&str; 17] = [
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "target_modules",
    "exclude_modules",
    "lora_dropout",
    "layers_to_transform",
    "layers_pattern",
    "megatron_config",
    "megatron_core",
    "qalora_group_size",
    "ensure_weight_tying",
    "eva_config",
];

impl LoraConfig {
    /// Whether it is possible.
    ///
    /// # Errors
    /// The field, the value and the remedy.
    pub fn check(&self) -> Result<()> {
        let Self {
            r,
            lora_alpha,
            use_rslora: _,
            target_modules,
            exclude_modules,
            rank_pattern,
            alpha_pattern,
        } = self;
        let ranks = rank_pattern.iter().map(|(name, r)| (format!("rank_pattern.{name}"), *r));
        if let Some((field, r)) = ranks.chain([("r".to_owned(), *r)]).find(|(_, r)| *r < 1) {
            return Err(Error::config(field, format!("{r}: at least 1 is needed")));
        }
        let alphas = alpha_pattern.iter().map(|(name, a)| (format!("alpha_pattern.{name}"), *a));
        if let Some((field, alpha)) =
            alphas.chain([("lora_alpha".to_owned(), *lora_alpha)]).find(|(_, a)| !a.is_finite())
        {
            return Err(Error::config(field, format!("{alpha}: a finite number is needed")));
        }
        if target_modules.is_empty() {
            return Err(Error::config("target_modules", "is empty: name layers, as in [\"to_q\", \"to_v\"]"));
        }
        are_plain("target_modules", target_modules.iter())?;
        are_plain("exclude_modules", exclude_modules.iter())?;
        are_plain("rank_pattern", rank_pattern.keys())?;
        are_plain("alpha_pattern", alpha_pattern.keys())
    }

    /// The layers of a network that it changes.
    ///
    /// # Errors
    /// A target that no layer has.
    pub(crate) fn targets<'a>(&self, layers: impl Iterator<Item = &'a str>) -> Result<Vec<&'a str>> {
        let layers: Vec<&str> = layers.collect();
        for target in &self.target_modules {
            if !layers.iter().any(|layer| is_below(layer, target)) {
                let mut ends: Vec<&str> = layers.iter().filter_map(|l| l.rsplit('.').next()).collect();
                ends.sort_unstable();
                ends.dedup();
                let reason =
                    format!("{target}: no layer is called so, their names end in {}", ends.join(", "));
                return Err(Error::config("target_modules", reason));
            }
        }
        let any = |names: &[String], layer: &str| names.iter().any(|name| is_below(layer, name));
        let wanted = |layer: &&str| any(&self.target_modules, layer) && !any(&self.exclude_modules, layer);
        let targets: Vec<&str> = layers.into_iter().filter(wanted).collect();
        match targets.is_empty() {
            true => Err(Error::config("exclude_modules", "leaves no layer: name fewer")),
            false => Ok(targets),
        }
    }

    /// The rank for a layer.
    pub(crate) fn rank(&self, layer: &str) -> i64 {
        of_pattern(&self.rank_pattern, layer).unwrap_or(self.r)
    }

    /// `lora_alpha` for a layer.
    pub(crate) fn alpha(&self, layer: &str) -> f64 {
        of_pattern(&self.alpha_pattern, layer).unwrap_or(self.lora_alpha)
    }

    /// The scale of a layer's part.
    pub(crate) fn scale(&self, layer: &str) -> f64 {
        let rank = self.rank(layer) as f64;
        self.alpha(layer) / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// For these layers, with the rank and `lora_alpha` of each.
    pub(crate) fn of_layers(layers: &[(String, i64, f64)], use_rslora: bool) -> Self {
        let (r, lora_alpha) = layers.first().map_or((1, 1.0), |(_, r, alpha)| (*r, *alpha));
        let whole = |name: &String| format!("^{name}");
        let ranks = layers.iter().filter(|l| l.1 != r).map(|(name, r, _)| (whole(name), *r));
        let alphas = layers.iter().filter(|l| l.2 != lora_alpha).map(|(name, _, a)| (whole(name), *a));
        Self {
            r,
            lora_alpha,
            use_rslora,
            target_modules: layers.iter().map(|(name, ..)| whole(name)).collect(),
            exclude_modules: Vec::new(),
            rank_pattern: ranks.collect(),
            alpha_pattern: alphas.collect(),
        }
    }

    /// What peft wrote beside a LoRA: ranks and alphas; the file itself says which layers there are.
    ///
    /// # Errors
    /// The field that asks for what is not covered.
    pub(crate) fn from_peft(fields: &Map<String, Value>) -> Result<Self> {
        let mut ours = Map::new();
        for (field, value) in fields {
            match field.as_str() {
                "r" | "lora_alpha" | "use_rslora" | "rank_pattern" | "alpha_pattern" => {
                    ours.insert(field.clone(), value.clone());
                }
                // Starts that change the base weights, so that the file alone does not say what it computes.
                "init_lora_weights" if value.is_boolean() || *value == json!("gaussian") => {}
                name if WITHOUT_EFFECT.contains(&name) || is_neutral(value) => {}
                _ => return Err(Error::config(field, format!("{value}: is not covered"))),
            }
        }
        let read: Self = serde_json::from_value(Value::Object(ours))
            .map_err(|e| Error::config("LoraConfig", format!("{e}; save it again")))?;
        are_plain("rank_pattern", read.rank_pattern.keys())?;
        are_plain("alpha_pattern", read.alpha_pattern.keys())?;
        Ok(read)
    }

    /// As peft writes it.
    pub(crate) fn to_peft(&self) -> Map<String, Value> {
        let Self { r, lora_alpha, use_rslora, target_modules, exclude_modules, rank_pattern, alpha_pattern } =
            self;
        let plain = |names: &[String]| -> Vec<String> {
            names.iter().map(|name| name.trim_start_matches('^').to_owned()).collect()
        };
        let alphas: Map<String, Value> =
            alpha_pattern.iter().map(|(name, alpha)| (name.clone(), number(*alpha))).collect();
        let fields = [
            ("peft_type", json!("LORA")),
            ("bias", json!("none")),
            ("r", json!(r)),
            ("lora_alpha", number(*lora_alpha)),
            ("use_rslora", json!(use_rslora)),
            ("target_modules", json!(plain(target_modules))),
            ("exclude_modules", json!((!exclude_modules.is_empty()).then(|| plain(exclude_modules)))),
            ("rank_pattern", json!(rank_pattern)),
            ("alpha_pattern", Value::Object(alphas)),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into_iter().collect()
    }
}

/// Whole numbers without a point, as peft's `lora_alpha` is an integer.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

fn of_pattern<T: Copy>(pattern: &BTreeMap<String, T>, layer: &str) -> Option<T> {
    pattern.iter().find(|(name, _)| is_below(layer, name)).map(|(_, value)| *value)
}

/// Letters, digits, `_`, `-` and points, behind at most one `^`: not peft's regular expressions.
fn are_plain<'a>(field: &str, mut names: impl Iterator<Item = &'a String>) -> Result<()> {
    let is_plain = |name: &str| {
        let name = name.strip_prefix('^').unwrap_or(name);
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
    };
    names.find(|name| !is_plain(name)).map_or(Ok(()), |name| {
        let reason = format!("{name}: expressions are not covered, give names or their last parts");
        Err(Error::config(field, reason))
    })
}

fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text == "none",
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
