#![doc = include_str!("../README.md")]
#![allow(unsafe_code, reason = "the one crate that crosses into C++ by itself")]

mod attention;
mod conv;
mod ffi;
mod meta;
mod modulate;
mod norm;
mod optimizer;
mod settings;

pub use attention::attend;
pub use conv::conv3x3;
pub use meta::{is_meta, meta};
pub use modulate::{gated_residual, gelu_tanh, layer_norm_modulate};
pub use norm::{GroupNorm, group_norm, group_norm_silu};
pub use optimizer::{Adam, adam_, add_, forget_grads, grad_norm, lerp_, scale_, set_grads};
pub use settings::{libtorch_version, reproducible};

#[cfg(test)]
mod tests;
