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
mod report;
mod result;
mod run;
mod sample;
mod sink;

pub use describe::{DescribeRequest, Description, describe};
pub use dirs::{find_recipe, project_root, recipes};
pub use export::{ExportRequest, export};
pub use forward::{ForwardRequest, forward};
pub use recipe::{Recipe, Study};
pub use record::{Record, RunInfo};
pub use report::write as write_report;
pub use result::{ArmResult, FinalSamples, LevelGap, RunResult};
pub use run::{Outcome, Request, check, free_folder, resumed, run};
pub use sample::{SampleRequest, sample};

#[cfg(test)]
mod tests;
