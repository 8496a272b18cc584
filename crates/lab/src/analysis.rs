//! What a study asks beyond a comparison of its arms.

mod agreement;
mod extraction;
mod fields;
mod grid;
mod onset;

pub use agreement::{AgreementAnalysis, AgreementConfig, AgreementPoint};
pub use extraction::{ExtractionAnalysis, ExtractionConfig, ExtractionPoint};
pub use fields::{FieldsAnalysis, FieldsConfig, FieldsPoint};
pub use grid::{GridAnalysis, GridCell, GridConfig};
pub use onset::{Collapse, OnsetAnalysis, OnsetConfig, OnsetPoint, PowerLaw, StopCheck};

use crate::recipe::Study;
use crate::record::Record;
use crate::result::ArmResult;
use crate::study::task_folder;
use anyhow::Result;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum AnalysisConfig {
    /// When samples become copies, over the number of training images; Bonnaire et al. 2025.
    Onset(OnsetConfig),
    /// Whether models of disjoint training sets draw the same images from the same noise; Kadkhodaie et al. 2024.
    Agreement(AgreementConfig),
    /// How many training images are generated, by how often each stands in the training set; Carlini et al. 2023.
    Extraction(ExtractionConfig),
    /// One outcome over the grid.
    Grid(GridConfig),
    /// How far the trained networks look; Luo et al. 2016.
    ReceptiveField(FieldsConfig),
}

/// Its answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AnalysisResult {
    /// See [`AnalysisConfig::Onset`].
    Onset(Box<OnsetAnalysis>),
    /// See [`AnalysisConfig::Agreement`].
    Agreement(AgreementAnalysis),
    /// See [`AnalysisConfig::Extraction`].
    Extraction(ExtractionAnalysis),
    /// See [`AnalysisConfig::Grid`].
    Grid(GridAnalysis),
    /// See [`AnalysisConfig::ReceptiveField`].
    ReceptiveField(FieldsAnalysis),
}

/// What a study has left behind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Evidence<'a> {
    pub(crate) study: &'a Study,
    pub(crate) run: &'a Path,
    pub(crate) arms: &'a [ArmResult],
    pub(crate) records: &'a [Record],
}

impl Evidence<'_> {
    fn folder(&self, arm: &ArmResult) -> PathBuf {
        task_folder(self.run, &arm.name, arm.seed)
    }
}

impl AnalysisConfig {
    /// Which setting cannot be honoured.
    pub(crate) fn check(&self, study: &Study) -> heldout_core::Result<()> {
        match self {
            Self::Onset(config) => config.check(),
            Self::Agreement(config) => config.check(study),
            Self::Extraction(config) => config.check(study),
            Self::Grid(config) => config.check(study),
            Self::ReceptiveField(config) => config.check(),
        }
    }

    pub(crate) fn run(&self, evidence: &Evidence<'_>) -> Result<AnalysisResult> {
        Ok(match self {
            Self::Onset(config) => {
                AnalysisResult::Onset(Box::new(config.run(evidence.arms, evidence.records)?))
            }
            Self::Agreement(config) => AnalysisResult::Agreement(config.run(evidence)?),
            Self::Extraction(config) => AnalysisResult::Extraction(config.run(evidence)?),
            Self::Grid(config) => AnalysisResult::Grid(config.run(evidence)),
            Self::ReceptiveField(config) => AnalysisResult::ReceptiveField(config.run(evidence)?),
        })
    }
}

impl AnalysisResult {
    /// In a sentence or two.
    pub(crate) fn answer(&self) -> String {
        match self {
            Self::Onset(found) => found.answer(),
            Self::Agreement(found) => found.answer(),
            Self::Extraction(found) => found.answer(),
            Self::Grid(found) => found.answer(),
            Self::ReceptiveField(found) => found.answer(),
        }
    }
}

/// Mean, least and largest.
pub(crate) fn summary(values: &[f64]) -> [f64; 3] {
    let (low, high) =
        values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
    [values.iter().sum::<f64>() / values.len() as f64, low, high]
}
