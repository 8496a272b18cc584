//! Whether edges lie where they should.

use heldout_core::{Error, Result};
use tch::{Kind, Tensor};

/// F1 of edges found against edges wanted, `[B]`, f64: harmonic mean of the share of found pixels that lie within `tolerance`
/// pixels (in rows and in columns) of a wanted one, and the share of wanted pixels that lie so near to a found one.
///
/// Both `[B, 1, H, W]` of 0 and 1. Where there is none of both it is 1, where there is one of them alone 0.
///
/// # Errors
/// Maps of different or other shapes; a negative tolerance.
pub fn edge_f1(found: &Tensor, wanted: &Tensor, tolerance: i64) -> Result<Tensor> {
    let (a, b) = (found.size(), wanted.size());
    if a != b || a.len() != 4 || a[1] != 1 {
        let reason = format!("of shape {a:?} against {b:?}: both must be of one shape [B, 1, H, W]");
        return Err(Error::config("edges", reason));
    }
    if tolerance < 0 {
        return Err(Error::config("tolerance", format!("{tolerance}: at least 0 pixels are needed")));
    }
    let edges = |t: &Tensor| t.gt(0.5).to_kind(Kind::Float);
    let (found, wanted) = (edges(found), edges(wanted));
    let near = |t: &Tensor| {
        // A window of any size, by steps of one pixel: pooling pads by at most half of its window.
        (0..tolerance).fold(t.shallow_clone(), |t, _| t.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false))
    };
    let sum = |t: &Tensor| t.sum_dim_intlist([1i64, 2, 3].as_slice(), false, Kind::Double);
    let (count_found, count_wanted) = (sum(&found), sum(&wanted));
    let precision = sum(&(&found * near(&wanted))) / count_found.clamp_min(1.0);
    let recall = sum(&(&wanted * near(&found))) / count_wanted.clamp_min(1.0);
    let f1 = &precision * &recall * 2.0 / (&precision + &recall).clamp_min(f64::MIN_POSITIVE);
    let none = (count_found + count_wanted).eq(0.0).to_kind(Kind::Double);
    Ok(f1 + none)
}
