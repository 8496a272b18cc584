//! What augmentations share: which rows, and how the rest of a batch follows its images.

use heldout_core::{Batch, CurveConfig, Error, Result};
use tch::{Kind, Tensor};

/// The same all the time: the strength of an augmentation that is meant for every row.
pub(super) fn always() -> CurveConfig {
    1.0.into()
}

/// Whether `probability` stays one.
pub(super) fn check_probability(probability: &CurveConfig) -> Result<()> {
    probability.check("probability", 0.0, 1.0)
}

/// Whether `value` is within `low..=high`, or that `field` is not.
pub(super) fn check_range(field: &str, value: f64, low: f64, high: f64) -> Result<()> {
    if (low..=high).contains(&value) && value.is_finite() {
        return Ok(());
    }
    Err(Error::config(field, format!("{value} is not between {low} and {high}")))
}

/// Whether `[from, to]` rises within `low..=high`, or that `field` does not.
pub(super) fn check_rising(field: &str, range: [f64; 2], low: f64, high: f64) -> Result<()> {
    range.into_iter().try_for_each(|value| check_range(field, value, low, high))?;
    if range[0] <= range[1] {
        return Ok(());
    }
    Err(Error::config(field, format!("{range:?} falls: write the smaller number first")))
}

/// Uniform in `[from, to)` for each row of `x`, `[B]`, f32.
pub(super) fn uniform(x: &Tensor, from: f64, to: f64) -> Tensor {
    Tensor::rand([x.size()[0]], (Kind::Float, x.device())) * (to - from) + from
}

/// Which rows of `x` are changed, `[B]`, boolean.
pub(super) fn picked(x: &Tensor, probability: f64) -> Tensor {
    uniform(x, 0.0, 1.0).lt(probability)
}

/// `changed` in the `rows` `[B]` and `x` in the others, to the last bit; `[B, ..]`.
pub(super) fn only(rows: &Tensor, changed: &Tensor, x: &Tensor) -> Tensor {
    let mut shape = vec![1; x.dim()];
    shape[0] = -1;
    changed.where_self(&rows.view(shape.as_slice()), x)
}

/// Everything of `batch` that has the images' geometry, changed: images, masks, hints.
pub(super) fn geometric(mut batch: Batch, change: impl Fn(&Tensor) -> Tensor) -> Batch {
    batch.x_start = change(&batch.x_start);
    batch.known = batch.known.map(|known| known.map(&change));
    batch.cond.hint = batch.cond.hint.map(|hint| change(&hint));
    batch
}
