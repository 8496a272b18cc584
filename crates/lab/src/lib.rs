#![doc = include_str!("../README.md")]

mod adapter;
mod advise;
mod arm;
mod assemble;
mod audit;
mod audit_data;
mod autoencoder;
mod captioned;
mod clip;
mod conditions;
mod cost;
mod describe;
mod diagnose;
mod dirs;
mod evaluate;
mod export;
mod feature_metrics;
mod forward;
mod frozen;
mod hash;
mod machine;
mod monitor;
mod networks;
mod parts;
mod pipeline;
mod progress;
mod recipe;
mod record;
mod regularization;
mod report;
mod result;
mod run;
mod sample;
mod sink;
mod space;
mod stop_step;
mod texts;
mod weights_choice;

pub use adapter::{
    AdapterConfig, AdapterResult, Base, ControlConfig, DecoupledConfig, HintMeasure, Interference,
    LoraArmConfig, PartConfig, SensitivityAt, T2iConfig,
};
pub use advise::advise;
pub use audit::{Audit, AuditRequest, ClassShare, Finding, Share, Suspect, audit, free_audit_folder};
pub use audit_data::{
    AuditDataRequest, DataAudit, Duplicates, Expectation, Images, LabelKind, Labels, ModelSize, audit_data,
};
pub use autoencoder::{
    AutoencoderRecipe, AutoencoderRequest, AutoencoderResult, KeptCheckpoints, PerceptualConfig,
    ReconstructionConfig, ReconstructionQuality, train_autoencoder,
};
pub use captioned::TextConfig;
pub use clip::ClipRequest;
pub use cost::{Cost, CostRequest, costs};
pub use describe::{
    DescribeRequest, Described, Description, PartDescription, PipelineDescription, describe, describe_any,
};
pub use diagnose::{DiagnoseRequest, Diagnosis, FieldSize, diagnose};
pub use dirs::{find_autoencoder, find_fragment, find_recipe, fragments, project_root, recipes};
pub use export::{ExportRequest, export};
pub use feature_metrics::{FeatureMetrics, MetricRow, MetricsRequest, feature_metrics};
pub use forward::{ForwardRequest, forward};
pub use networks::network;
pub use pipeline::{ControlRequest, PipelineRequest, pipeline_folder, sample_pipeline};
pub use recipe::{Recipe, Study};
pub use record::{Record, RunInfo};
pub use regularization::RegularizationConfig;
pub use report::write as write_report;
pub use result::{ArmResult, FinalSamples, LatentCopies, LevelGap, RunResult};
pub use run::{Outcome, Request, check, free_folder, resumed, run};
pub use sample::{SampleRequest, sample};
pub use space::LatentConfig;
pub use stop_step::{pilots, stop_step};
pub use weights_choice::WeightsChoice;

#[cfg(test)]
mod tests;
