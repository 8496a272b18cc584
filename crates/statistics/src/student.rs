//! Student's t.

use statrs::function::beta::{beta_reg, inv_beta_reg};

/// Probability of a t at least as far from 0 either way, under `freedom` degrees of freedom.
///
/// `I_x(v/2, 1/2)` at `x = v / (v + t^2)`; for a small t, whose `x` would round to 1, from the other end.
pub(crate) fn two_sided_p(t: f64, freedom: usize) -> f64 {
    let (v, square) = (freedom as f64, t * t);
    if square < 1.0 {
        1.0 - beta_reg(0.5, 0.5 * v, square / (v + square))
    } else {
        beta_reg(0.5 * v, 0.5, v / (v + square))
    }
}

/// 97.5 % quantile of Student's t with `freedom >= 1` degrees of freedom: 95 % of t lie between it and its negative.
#[must_use]
pub fn student_quantile(freedom: usize) -> f64 {
    let v = freedom as f64;
    let x = inv_beta_reg(0.5 * v, 0.5, 0.05);
    (v * (1.0 - x) / x).sqrt()
}
