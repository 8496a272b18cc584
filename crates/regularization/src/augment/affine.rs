//! Images under affine maps.

use serde::{Deserialize, Serialize};
use tch::Tensor;

/// How values between pixels are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Linear in each direction.
    Bilinear,
    /// The pixel that is nearest.
    Nearest,
    /// Cubic in each direction: sharper, and it may overshoot.
    Bicubic,
}

/// What lies beyond the edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Padding {
    /// Zeros.
    Zeros,
    /// The outermost pixels.
    Border,
    /// The image mirrored, its outermost pixels twice.
    Reflect,
}

/// `x` `[B, C, H, W]` looked up at `matrices` `[B, 2, 3]` of its own places: what is shown at `p` lies at `A p + b`.
///
/// Places are `(right, down)` in pixels from the middle, but `b` is in shares of the width and the height, so that the same
/// matrices serve images of another resolution.
pub fn affine(x: &Tensor, matrices: &Tensor, interpolation: Interpolation, padding: Padding) -> Tensor {
    let grid = grid(&matrices.to_kind(x.kind()), x);
    let interpolation = match interpolation {
        Interpolation::Bilinear => 0,
        Interpolation::Nearest => 1,
        Interpolation::Bicubic => 2,
    };
    let padding = match padding {
        Padding::Zeros => 0,
        Padding::Border => 1,
        Padding::Reflect => 2,
    };
    x.grid_sampler(&grid, interpolation, padding, false)
}

/// The places `[B, H, W, 2]` in libtorch's unit, half a side.
///
/// Element by element: a product of matrices this small waits for threads.
fn grid(matrices: &Tensor, x: &Tensor) -> Tensor {
    let (h, w) = (x.size()[2], x.size()[3]);
    let middles = |side: i64| (Tensor::arange(side, (x.kind(), x.device())) * 2.0 + 1.0) / side as f64 - 1.0;
    let (right, down) = (middles(w).view([1, 1, w]), middles(h).view([1, h, 1]));
    let at = |i: i64, j: i64| matrices.select(1, i).select(1, j).view([-1, 1, 1]);
    let ratio = h as f64 / w as f64;
    let of_x = at(0, 0) * &right + at(0, 2) * 2.0 + at(0, 1) * ratio * &down;
    let of_y = at(1, 0) / ratio * right + at(1, 2) * 2.0 + at(1, 1) * down;
    Tensor::stack(&[of_x, of_y], 3)
}

/// `x` `[B, C, H, W]` turned counter-clockwise by `radians` `[B]` about its middle.
pub fn rotate(x: &Tensor, radians: &Tensor, interpolation: Interpolation, padding: Padding) -> Tensor {
    let (cos, sin, zero) = (radians.cos(), radians.sin(), radians.zeros_like());
    // Looked up where it was before.
    let matrices = Tensor::stack(&[&cos, &-&sin, &zero, &sin, &cos, &zero], 1).view([-1, 2, 3]);
    affine(x, &matrices, interpolation, padding)
}
