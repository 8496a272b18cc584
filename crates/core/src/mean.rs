//! Means over examples with their standard errors.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// A mean and its standard error.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// The mean.
    pub value: f64,
    /// Standard deviation (n - 1) over the square root of n.
    pub standard_error: f64,
}

impl Mean {
    /// Of `rows` `[N]`; of a single row the error is not a number.
    pub fn of(rows: &Tensor) -> Self {
        let rows = rows.to_kind(Kind::Double);
        let n = rows.size()[0] as f64;
        Self {
            value: rows.mean(Kind::Double).double_value(&[]),
            standard_error: rows.std(true).double_value(&[]) / n.sqrt(),
        }
    }

    /// `mean(a) / mean(b)` of paired rows `[N]`, its error by linearisation (Cochran 1977, chapter 6); `None` where
    /// `mean(b)` is 0.
    pub fn ratio(a: &Tensor, b: &Tensor) -> Option<Self> {
        let below = Self::of(b).value;
        if below == 0.0 {
            return None;
        }
        let value = Self::of(a).value / below;
        let standard_error = Self::of(&(a - b * value)).standard_error / below.abs();
        Some(Self { value, standard_error })
    }
}
