#![doc = include_str!("../README.md")]

mod clamped;
mod config;
mod ddim;
mod ddpm;
mod diffusers;
mod dormand_prince;
mod dpm_solver;
mod edm;
mod lms;
mod noise;
mod time_grid;
mod unipc;
mod walk;

pub use clamped::Clamped;
pub use config::SamplerConfig;
pub use ddim::Ddim;
pub use ddpm::{Ddpm, Variance};
pub use diffusers::DiffusersScheduler;
pub use dormand_prince::DormandPrince;
pub use dpm_solver::{DpmSolver2m, DpmSolver2mSde, DpmSolver2s};
pub use edm::{Churn, Euler, Heun};
pub use lms::Lms;
pub use noise::SeededNoise;
pub use time_grid::{GridEnds, TimeGrid};
pub use unipc::UniPc;

#[cfg(test)]
mod tests;
