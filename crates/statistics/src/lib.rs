#![doc = include_str!("../README.md")]

mod bootstrap;
mod decision;
mod error;
mod holm;
mod interval;
mod log_log;
mod paired;
mod student;

pub use bootstrap::Options;
pub use decision::{Decision, Direction, Evidence, LEVEL, decide};
pub use error::Error;
pub use holm::holm;
pub use interval::Interval;
pub use log_log::LogLogFit;
pub use paired::{Degenerate, PairedDifference, paired};
pub use student::student_quantile;

#[cfg(test)]
mod tests;
