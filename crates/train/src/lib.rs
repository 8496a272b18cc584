#![doc = include_str!("../README.md")]

mod backprop;
mod budgeted;
mod checkpoint;
mod curve;
mod early_stopping;
mod kept_averages;
mod logger;
mod monitor;
mod objective;
mod optimizer;
mod optimizer_step;
mod record;
mod stop_step;
mod training;
mod validation;

pub use backprop::Backprop;
pub use budgeted::Budgeted;
pub use checkpoint::{
    Checkpoints, Choice, Loaded, Scores, sha256_of_file, write_atomically, write_tensors_atomically,
};
pub use curve::{Decay, LearningRate};
pub use early_stopping::{EarlyStopping, EarlyStoppingConfig};
pub use kept_averages::KeptAverages;
pub use logger::TrainLogger;
pub use monitor::{Distance, MemorizationMonitor, Quality};
pub use objective::DenoisingObjective;
pub use optimizer::OptimizerConfig;
pub use optimizer_step::{NonFinite, OptimizerStep};
pub use record::{Event, LIVE, Sink};
pub use stop_step::{Onset, StopPrediction, predict_stop};
pub use training::{Ending, Run, Training, train};
pub use validation::{Losses, ValidationSets, Validator, validation_loss};

#[cfg(test)]
mod tests;
