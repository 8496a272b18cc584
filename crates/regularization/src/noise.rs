//! Techniques that change the noise that is added, or the noise that is asked for.

mod gaussian;

pub use gaussian::Gaussian;
