//! Bands of noise levels.

use heldout_core::{Error, Result};
use tch::Tensor;

/// `log_snr` from `low` up to below `high`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Band {
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// Whether edges between bands are finite and rise.
pub(crate) fn check_edges(field: &str, edges: &[f64]) -> Result<()> {
    if edges.iter().all(|e| e.is_finite()) && edges.windows(2).all(|w| w[0] < w[1]) {
        return Ok(());
    }
    Err(Error::config(field, format!("{edges:?}: finite log SNRs that rise are needed")))
}

/// All bands between these edges, from much noise to little; they cover every level.
pub(crate) fn bands(edges: &[f64]) -> Vec<Band> {
    let low = std::iter::once(f64::NEG_INFINITY).chain(edges.iter().copied());
    let high = edges.iter().copied().chain(std::iter::once(f64::INFINITY));
    low.zip(high).map(|(low, high)| Band { low, high }).collect()
}

/// Which rows lie in each band, `[B]`, `Bool`.
pub(crate) fn row_masks(log_snr: &Tensor, bands: &[Band]) -> Vec<Tensor> {
    bands.iter().map(|b| log_snr.ge(b.low).logical_and(&log_snr.lt(b.high))).collect()
}
