//! Intervals from standard errors.

use crate::Interval;

/// 97.5th percentile of the standard normal distribution.
pub(crate) const NORMAL: f64 = 1.959_963_984_540_054;

impl Interval {
    /// A number whose interval is not known.
    pub(crate) fn unknown(value: f64) -> Self {
        Self { value, lower: f64::NAN, upper: f64::NAN }
    }

    /// The ends; `None` where the interval is not known.
    pub fn ends(&self) -> Option<[f64; 2]> {
        (!self.lower.is_nan() && !self.upper.is_nan()).then_some([self.lower, self.upper])
    }

    /// `value +- quantile * error`.
    pub(crate) fn around(value: f64, error: f64, quantile: f64) -> Self {
        Self { value, lower: value - quantile * error, upper: value + quantile * error }
    }

    /// Not below `least`, for what cannot be.
    pub(crate) fn at_least(self, least: f64) -> Self {
        Self { lower: self.lower.max(least), upper: self.upper.max(least), ..self }
    }
}

/// Mean of a slice, NaN where it is empty.
pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Variance of a slice; `ddof` 1 where it estimates, 0 where it describes.
pub(crate) fn variance(values: &[f64], ddof: usize) -> f64 {
    let center = mean(values);
    values.iter().map(|v| (v - center).powi(2)).sum::<f64>() / (values.len() - ddof) as f64
}

/// Standard error of a statistic from its influence on each of the samples.
pub(crate) fn influence_error(influence: &[f64]) -> f64 {
    (variance(influence, 1) / influence.len() as f64).sqrt()
}
