#![doc = include_str!("../README.md")]

mod control_net;
mod copy;
mod decoupled;
mod dit_control;
mod factors;
mod hint;
pub mod hints;
mod lora;
mod measures;
mod several;
mod t2i_adapter;

pub use control_net::{CONTROL_NET_OWN, ChannelOrder, ControlNet, ControlNetModelConfig, HintConfig};
pub use copy::copy_weights;
pub use decoupled::Decoupled;
pub use dit_control::{DIT_CONTROL_OWN, DitControl, DitControlConfig};
pub use factors::{Factor, LowPass, Split};
pub use lora::{LoraConfig, LoraFile, LoraSet};
pub use measures::{Change, Condition, Sensitivity, condition_sensitivity, interference};
pub use several::{ScaledSites, Several, Weight};
pub use t2i_adapter::{T2iAdapter, T2iAdapterConfig, T2iAdapterType};

#[cfg(test)]
mod tests;
