#![doc = include_str!("../README.md")]

mod arm;
mod assemble;
mod describe;
mod dirs;
mod evaluate;
mod export;
mod forward;
mod machine;
mod progress;
mod recipe;
mod record;
mod regularization;
mod report;
mod result;
mod run;
mod sample;
mod sink;
mod weights_choice;

pub use describe::{DescribeRequest, Description, describe};
pub use dirs::{find_fragment, find_recipe, fragments, project_root, recipes};
pub use export::{ExportRequest, export};
pub use forward::{ForwardRequest, forward};
pub use recipe::{Recipe, Study};
pub use record::{Record, RunInfo};
pub use regularization::RegularizationConfig;
pub use report::write as write_report;
pub use result::{ArmResult, FinalSamples, LevelGap, RunResult};
pub use run::{Outcome, Request, check, free_folder, resumed, run};
pub use sample::{SampleRequest, sample};
pub use weights_choice::WeightsChoice;

#[cfg(test)]
mod tests;
