//! Resolution shift.

use heldout_core::{Marginal, NoiseSchedule};
use tch::Tensor;

/// The schedule `inner` run through at another pace: `sigma / alpha` at every time is `shift` times what it was.
///
/// More noise for larger images: `shift = sqrt(pixels / pixels that inner was made for)` (Esser et al. 2024, Eq. 23, for
/// straight lines; Hoogeboom et al. 2023, Eq. 4, for variance-preserving ones: both are this one).
#[derive(Debug, Clone)]
pub struct Shifted<S> {
    /// The schedule of the smaller images.
    pub inner: S,
    /// Factor on `sigma / alpha`, positive.
    pub shift: f64,
}

impl<S: NoiseSchedule> Shifted<S> {
    fn inner_time(&self, t: &Tensor) -> Tensor {
        let moved = self.inner.time_of(&(self.inner.log_snr(t) - 2.0 * self.shift.ln()));
        let moved = moved.where_self(&t.gt(0.0), t); // the ends stay, also where their log SNR is infinite
        moved.where_self(&t.lt(1.0), t)
    }

    /// `d log SNR / d t` of the inner schedule, a little inside the ends, where it is finite.
    fn slope(&self, t: &Tensor) -> Tensor {
        self.inner.marginal(&t.clamp(1e-7, 1.0 - 1e-7)).d_log_snr()
    }
}

impl<S: NoiseSchedule> NoiseSchedule for Shifted<S> {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let inner = self.inner_time(t);
        let m = self.inner.marginal(&inner);
        let pace = self.slope(t) / self.slope(&inner);
        Marginal { d_alpha: m.d_alpha * &pace, d_sigma: m.d_sigma * pace, ..m }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        self.inner.time_of(&(log_snr + 2.0 * self.shift.ln()))
    }
}
