//! Where a run stands, and scalars that depend on it.

use std::fmt::Debug;

/// Where a run stands: all that a curriculum may depend on. A value, never a global.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Steps done before this one; the first step is 0.
    pub step: u64,
    /// Steps of the whole run.
    pub total: u64,
}

impl Clock {
    /// Fraction of the run that is done, in `[0, 1]`.
    pub fn progress(self) -> f64 {
        self.step as f64 / self.total.max(1) as f64
    }
}

/// A scalar as a function of the clock: learning rate, penalty weight, noise range, EMA decay.
///
/// Law: a function of the clock alone; finite for every step of the run.
pub trait Curve: Debug {
    /// The value at `clock`.
    fn at(&self, clock: Clock) -> f64;
}

impl Curve for f64 {
    fn at(&self, _: Clock) -> f64 {
        *self
    }
}

impl<C: Curve + ?Sized> Curve for Box<C> {
    fn at(&self, clock: Clock) -> f64 {
        (**self).at(clock)
    }
}
