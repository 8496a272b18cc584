#![doc = include_str!("../README.md")]

mod config;
mod ddim;
mod ddpm;
mod diffusers;
mod dormand_prince;
mod dpm_solver;
mod edm;
mod guidance;
mod likelihood;
mod lms;
mod noise;
mod ode;
mod plms;
mod probability_flow;
mod time_grid;
mod unipc;
mod walk;

pub use config::SamplerConfig;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use diffusers::DiffusersScheduler;
pub use dormand_prince::DormandPrince;
pub use dpm_solver::{DpmSolver2m, DpmSolver2mSde, DpmSolver2s};
pub use edm::{Churn, Euler, Heun};
pub use guidance::{
    And, Autoguidance, Clamped, ClassifierFree, ClassifierGuidance, EmbeddingDistance, EmbeddingScore,
    GuidedChannels, LimitedInterval, LogProbability, Or, RandomAffine, Rescale, ScoreGuidance, Weighted,
    XStartScore,
};
pub use likelihood::{Likelihood, VariationalBound};
pub use lms::Lms;
pub use noise::{SeededNoise, starting_std};
pub use plms::Plms;
pub use time_grid::{GridEnds, TimeGrid};
pub use unipc::UniPc;

#[cfg(test)]
mod tests;
