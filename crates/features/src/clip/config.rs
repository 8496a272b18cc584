//! What of transformers' `config.json` shapes do not tell.

use heldout_core::{Error, Result};
use heldout_nn::FeedForwardKind;
use heldout_weights::WeightFiles;
use serde::Deserialize;

/// The pointwise function of the feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum HiddenAct {
    /// `x sigmoid(1.702 x)`: OpenAI's.
    QuickGelu,
    /// OpenCLIP's.
    Gelu,
}

impl HiddenAct {
    pub(super) fn feed_forward(self) -> FeedForwardKind {
        match self {
            Self::QuickGelu => FeedForwardKind::GegluApproximate,
            Self::Gelu => FeedForwardKind::Gelu,
        }
    }
}

/// One tower; absent fields have the values that transformers gives them.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct TowerConfig {
    pub(super) num_attention_heads: i64,
    #[serde(default = "quick_gelu")]
    pub(super) hidden_act: HiddenAct,
    #[serde(default = "eps")]
    pub(super) layer_norm_eps: f64,
    /// Of texts: which token's vector stands for the text.
    #[serde(default = "eos")]
    pub(super) eos_token_id: i64,
}

fn quick_gelu() -> HiddenAct {
    HiddenAct::QuickGelu
}

fn eps() -> f64 {
    1e-5
}

fn eos() -> i64 {
    49407
}

impl TowerConfig {
    /// The section `text_config` or `vision_config` of a whole model, or the whole of a tower's own configuration.
    pub(super) fn read(files: &WeightFiles, section: &str, heads: i64) -> Result<Self> {
        let config = files.config()?;
        let mut fields = match config.get(section) {
            Some(serde_json::Value::Object(fields)) => fields.clone(),
            _ => config.clone(),
        };
        // Transformers leaves out what is as in its defaults.
        fields.entry("num_attention_heads").or_insert(heads.into());
        serde_json::from_value(fields.into())
            .map_err(|e| Error::file(files.path(), format!("config.json: {section}: {e}")))
    }
}
