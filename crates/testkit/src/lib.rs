#![doc = include_str!("../README.md")]

mod absence;
mod compare;
mod golden;
mod laws;
mod toy;

pub use absence::{
    check_absent_augment, check_absent_gradient, check_absent_noise, check_absent_times, check_absent_update,
};
pub use compare::{close, same};
pub use golden::Golden;
pub use laws::{
    check_adapter, check_augment, check_autoencoder, check_backbone, check_batch_source, check_curve,
    check_denoiser, check_gradient, check_metric, check_noise_source, check_objective,
    check_parameterization, check_penalty, check_persist, check_sampler, check_schedule, check_time_sampler,
    check_update, check_weighting,
};
pub use toy::{Blobs, Mlp, SquaredError, TrigSchedule, VPrediction, denoising_step, gaussian_denoiser};
