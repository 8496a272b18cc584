#![doc = include_str!("../README.md")]

mod clock;
mod cond;
mod curve;
mod error;
mod mean;
mod metric;
mod model;
mod params;
mod sampler;
mod seed;
mod source;
mod state;
mod training;
mod values;

pub use clock::{Clock, Curve};
pub use cond::Cond;
pub use curve::{CurveConfig, Ramp};
pub use error::{Error, Result};
pub use mean::Mean;
pub use metric::{Estimate, FeatureExtractor, FeatureOutput, FeatureSets, Measurement, Metric};
pub use model::{
    Adapted, Adapter, Autoencoder, Backbone, Denoiser, Input, NoiseSchedule, Parameterization,
    Preconditioned, Prepared, Probe, Recorder, Residuals, Site,
};
pub use params::{EvalWeights, Params};
pub use sampler::{NoiseStream, Sampler, Step};
pub use seed::{splitmix64, stream};
pub use source::{Augment, BatchSource, NoiseDraw, NoiseSource, TimeSampler, Times};
pub use state::{Persist, State};
pub use training::{
    Average, Denoising, DenoisingPenalty, Evaluation, Every, Flow, Gradient, Objective, Observer, Optimizer,
    Penalty, Rows, Scaled, Update, View, Weighting,
};
pub use values::{Batch, Known, Marginal, Noised, Posterior, Scalings, combine, like, mean_flat};
