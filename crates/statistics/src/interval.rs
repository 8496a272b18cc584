//! Intervals.

use crate::student::student_quantile;
use serde::{Deserialize, Serialize};

/// A 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Interval {
    /// Its lower end.
    pub lower: f64,
    /// Its upper end.
    pub upper: f64,
}

impl Interval {
    /// The mean of independent values, and its Student-t 95 % interval; none of fewer than two.
    #[must_use]
    pub fn of_mean(values: &[f64]) -> Option<(f64, Self)> {
        let n = values.len();
        if n < 2 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let squares: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        let error = (squares / (n * (n - 1)) as f64).sqrt();
        Some((mean, Self::around(mean, student_quantile(n - 1) * error)))
    }

    pub(crate) fn around(value: f64, half: f64) -> Self {
        Self { lower: value - half, upper: value + half }
    }
}
