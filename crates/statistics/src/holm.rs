//! Several comparisons at once.

use crate::Error;
use crate::error::check;

/// p values adjusted for being several, in the order given: rejecting those at or below 5 % makes a false
/// claim in at most 5 % of such families, whatever their dependence; Holm 1979.
///
/// With `m` values in ascending order, the `j`th becomes the largest of `(m - i + 1) p_i` over `i <= j`, at
/// most 1.
/// A value outside `[0, 1]` is an error.
pub fn holm(p: &[f64]) -> Result<Vec<f64>, Error> {
    check("p", p, "a probability, from 0 to 1", |p| (0.0..=1.0).contains(&p))?;
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let (mut adjusted, mut largest) = (vec![0.0; p.len()], 0.0f64);
    for (rank, i) in order.into_iter().enumerate() {
        largest = largest.max((p.len() - rank) as f64 * p[i]).min(1.0);
        adjusted[i] = largest;
    }
    Ok(adjusted)
}
