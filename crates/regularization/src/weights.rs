//! Techniques that change the weights after the step, or the weights that are evaluated.

mod ema;

pub use ema::{Averaged, EmaDecay};
