//! Bytes to `[-1, 1]` and back.

use tch::{Kind, Tensor};

/// u8 to f32 in `[-1, 1]`: `v / 127.5 - 1`.
pub fn to_unit_range(bytes: &Tensor) -> Tensor {
    bytes.to_kind(Kind::Float) / 127.5 - 1.0
}

/// The nearest u8 of values in `[-1, 1]`; what lies outside is cut.
pub fn to_bytes(x: &Tensor) -> Tensor {
    ((x + 1.0) * 127.5).round().clamp(0.0, 255.0).to_kind(Kind::Uint8)
}
