//! Comparisons that say by how much they failed.

use tch::{Kind, Tensor};

/// Largest absolute difference at most `tolerance`; shapes equal; nothing non-finite.
#[track_caller]
pub fn close(a: &Tensor, b: &Tensor, tolerance: f64) {
    assert_eq!(a.size(), b.size(), "shapes differ");
    let difference = (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs();
    let worst = if difference.numel() == 0 { 0.0 } else { difference.max().double_value(&[]) };
    assert!(worst <= tolerance, "largest difference {worst:e} > {tolerance:e}"); // False for NaN, as it should be.
}

/// Equal to the last bit, tensor by tensor.
pub fn same(a: &[Tensor], b: &[Tensor]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.kind() == y.kind() && x.equal(y))
}
