//! Exponents of power laws.

use crate::error::{check, check_lengths};
use crate::student::student_quantile;
use crate::{Error, Interval};
use serde::{Deserialize, Serialize};

/// Least spread of `ln x`.
const DISTINCT: f64 = 1e-9;

/// `y = exp(intercept) x^slope`, by ordinary least squares of `ln y` over `ln x`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LogLogFit {
    /// Points.
    pub n: usize,
    /// The exponent.
    pub slope: f64,
    /// Its standard error, from the residuals, with `n - 2` degrees of freedom.
    pub error: f64,
    /// Its Student-t 95 % interval.
    pub interval: Interval,
    /// `ln y` at `x = 1`.
    pub intercept: f64,
    /// Share of the variance of `ln y` that the line explains; `None` where `y` does not vary, so that there
    /// is none.
    pub r_squared: Option<f64>,
}

impl LogLogFit {
    /// The line through 3 to 10,000 points of at least 2 different `x`, all positive; several seeds at an `x`
    /// are several points.
    ///
    /// The interval supposes that points scatter independently and alike around the line. Points that share a
    /// seed, and so its luck, make it too narrow or too wide. Where all points lie on a line it has no width.
    pub fn new(x: &[f64], y: &[f64]) -> Result<Self, Error> {
        check_lengths(("x", x), ("y", y), 3)?;
        for (field, list) in [("x", x), ("y", y)] {
            check(field, list, "positive and finite, which a logarithm needs", |v| v > 0.0 && v.is_finite())?;
        }
        let n = x.len();
        let (x_log, y_log) = (Centered::new(x), Centered::new(y));
        if x_log.spread < DISTINCT {
            return Err(Error::OneX { points: n, value: x[0] });
        }
        let products: f64 = x_log.deviations.iter().zip(&y_log.deviations).map(|(x, y)| x * y).sum();
        let slope = products / x_log.squares;
        let residual = |(x, y): (&f64, &f64)| (y - slope * x).powi(2);
        let residuals: f64 = x_log.deviations.iter().zip(&y_log.deviations).map(residual).sum();
        let error = (residuals / (n - 2) as f64 / x_log.squares).sqrt();
        // A logarithm is known to an epsilon of itself, or of 1 where it is small.
        let varies = y_log.spread > 4.0 * f64::EPSILON * y_log.mean.abs().max(1.0);
        Ok(Self {
            n,
            slope,
            error,
            interval: Interval::around(slope, student_quantile(n - 2) * error),
            intercept: y_log.mean - slope * x_log.mean,
            r_squared: varies.then(|| (1.0 - residuals / y_log.squares).max(0.0)),
        })
    }
}

/// Logarithms around their mean.
struct Centered {
    mean: f64,
    deviations: Vec<f64>,
    squares: f64,
    /// Largest minus least.
    spread: f64,
}

impl Centered {
    fn new(values: &[f64]) -> Self {
        let logs: Vec<f64> = values.iter().map(|v| v.ln()).collect();
        let mean = logs.iter().sum::<f64>() / logs.len() as f64;
        let deviations: Vec<f64> = logs.iter().map(|l| l - mean).collect();
        let squares = deviations.iter().map(|d| d * d).sum();
        let extreme = |pick: fn(f64, f64) -> f64| deviations.iter().copied().fold(0.0, pick);
        let spread = extreme(f64::max) - extreme(f64::min);
        Self { mean, deviations, squares, spread }
    }
}
