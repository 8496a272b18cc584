//! Techniques that change the noise that is added, or the noise that is asked for.

mod assignment;
mod gaussian;
mod input_perturbation;
mod multi_resolution;
mod offset;
mod optimal_assignment;
mod schedule_jitter;
mod technique;

#[cfg(test)]
pub(crate) use assignment::cheapest;
pub use gaussian::Gaussian;
pub use input_perturbation::{InputPerturbation, InputPerturbationConfig};
pub use multi_resolution::{MultiResolutionNoise, MultiResolutionNoiseConfig};
pub use offset::{OffsetNoise, OffsetNoiseConfig};
pub use optimal_assignment::{OptimalAssignment, OptimalAssignmentConfig};
pub use schedule_jitter::{ScheduleJitter, ScheduleJitterConfig};
pub use technique::NoiseTechnique;
