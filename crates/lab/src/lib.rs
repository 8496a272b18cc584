#![doc = include_str!("../README.md")]

mod adapter;
mod advise;
mod analysis;
mod arm;
mod assemble;
mod audit;
mod audit_data;
mod autoencoder;
mod captioned;
mod clip;
mod compare;
mod compare_runs;
mod compose;
mod conditions;
mod cost;
mod describe;
mod diagnose;
mod dirs;
mod evaluate;
mod export;
mod feature_metrics;
mod forward;
mod frames;
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
mod schema;
mod sink;
mod space;
mod stop_step;
mod study;
mod texts;
mod verdict;
mod weights_choice;

pub use adapter::{
    AdapterConfig, AdapterResult, Base, ControlConfig, DecoupledConfig, HintList, HintMeasure, Interference,
    LoraArmConfig, PartConfig, SensitivityAt, T2iConfig,
};
pub use advise::advise;
pub use analysis::{
    AgreementAnalysis, AgreementConfig, AgreementPoint, AnalysisConfig, AnalysisResult, Collapse,
    ExtractionAnalysis, ExtractionConfig, ExtractionPoint, FieldsAnalysis, FieldsConfig, FieldsPoint,
    GridAnalysis, GridCell, GridConfig, OnsetAnalysis, OnsetConfig, OnsetPoint, PowerLaw, StopCheck,
};
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
pub use compare::{CompareConfig, Comparison, Effect, Outcome};
pub use compare_runs::{ArmPair, RunComparison, compare_runs};
pub use compose::{AskedConfig, AskedResult, ComposeConfig, ComposedResult};
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
pub use progress::Failure;
pub use recipe::{DataConfig, Place, Recipe, Study};
pub use record::{Record, RunInfo};
pub use regularization::RegularizationConfig;
pub use report::{write as write_report, write_results};
pub use result::{ArmFailure, ArmResult, FinalSamples, LatentCopies, LevelGap, QualityResult, StudyResult};
pub use run::{Request, RunEnding, check, free_folder, resumed, run, study_folder};
pub use sample::{SampleRequest, sample};
pub use schema::{FileKind, schema};
pub use space::LatentConfig;
pub use stop_step::{pilots, stop_step};
pub use study::{
    Calibration, Equal, Estimate, Executor, Progress, SubmitRequest, Submitted, WorkerEnding, Workers,
    calibrate, device_of_jobs, estimates, execute, finish, submit, submit_dry, work, work_alone,
};
pub use weights_choice::WeightsChoice;

#[cfg(test)]
mod tests;
