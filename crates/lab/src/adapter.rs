//! Adapters of a recipe: what is added to a base that was trained before.

mod base;
mod build;
mod config;
mod export;
mod hint_list;
mod hints;
mod measure;

pub use config::{AdapterConfig, Base, ControlConfig, DecoupledConfig, LoraArmConfig, PartConfig, T2iConfig};
pub use hint_list::HintList;
pub use measure::{AdapterResult, HintMeasure, Interference, SensitivityAt};

pub(crate) use base::{Bases, check_bases, with_base_model};
pub(crate) use build::{Adaptation, Site, build};
pub(crate) use export::export_adapter;
pub(crate) use hints::{Hinted, Hints, control_hint};
pub(crate) use measure::{Samples, lines, measure};
