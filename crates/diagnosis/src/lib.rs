#![doc = include_str!("../README.md")]

mod barrier;
mod curvature;
mod denoiser_distance;
mod gradient;
mod hessian;
mod loss_gap;
mod mode_coverage;
mod noise_scale;
mod paired_sets;
mod receptive_field;

pub use barrier::{Barrier, LossBarrier, barrier};
pub use curvature::{Curvature, CurvatureConfig, Eigenpair, curvature};
pub use denoiser_distance::{Distances, LevelDistance, TruthDistance, denoiser_distance};
pub use hessian::Hessian;
pub use loss_gap::{LevelGap, loss_gap};
pub use mode_coverage::{ClassShare, Labels, MissingMode, ModeCoverage, mode_coverage};
pub use noise_scale::{NoiseScale, NoiseScaleConfig, noise_scale};
pub use paired_sets::PairedSets;
pub use receptive_field::{ReceptiveField, receptive_field};

#[cfg(test)]
mod tests;
