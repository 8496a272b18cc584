//! What a study asks beyond a comparison of its arms.

mod onset;

pub use onset::{Collapse, OnsetAnalysis, OnsetConfig, OnsetPoint, StopCheck};

use crate::record::Record;
use crate::result::ArmResult;
use anyhow::Result;
use serde::{Deserialize, Serialize};

/// The question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnalysisConfig {
    /// When samples become copies, over the number of training images; Bonnaire et al. 2025.
    Onset(OnsetConfig),
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AnalysisResult {
    /// See [`AnalysisConfig::Onset`].
    Onset(OnsetAnalysis),
}

impl AnalysisConfig {
    /// Which setting cannot be honoured.
    pub(crate) fn check(&self) -> heldout_core::Result<()> {
        match self {
            Self::Onset(config) => config.check(),
        }
    }

    /// From the results and the records of all arms.
    pub(crate) fn run(&self, arms: &[ArmResult], records: &[Record]) -> Result<AnalysisResult> {
        match self {
            Self::Onset(config) => Ok(AnalysisResult::Onset(config.run(arms, records)?)),
        }
    }
}

impl AnalysisResult {
    /// In a sentence or two.
    pub(crate) fn answer(&self) -> String {
        match self {
            Self::Onset(found) => found.answer(),
        }
    }
}
