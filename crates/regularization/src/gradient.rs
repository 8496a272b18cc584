//! Techniques that change the gradient and leave the weights alone.

mod clip;

pub use clip::Clip;
