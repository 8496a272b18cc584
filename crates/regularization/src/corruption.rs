//! Training on corrupted data alone: what is never seen cannot be copied.

mod ambient;
mod masked_input;

pub use ambient::{Ambient, AmbientConfig};
pub use masked_input::MaskedInput;

use heldout_core::splitmix64;
use tch::{Device, Tensor};

/// 0 or 1 for every pixel of examples `rows`: `[B, 1, H, W]`, f32, 1 with probability `1 - missing`.
///
/// A function of the key, the row and the pixel alone: SplitMix64 (Steele, Lea and Flood 2014) of their number, whose stream
/// is the key's. Draws nothing from libtorch's generator, and is the same on every device and in every batch.
fn mask(key: u64, rows: &[i64], [height, width]: [i64; 2], missing: f64, device: Device) -> Tensor {
    let pixels = (height * width) as u64;
    // On the host, where a pixel is a nanosecond: as tensors it is some twenty kernels.
    let is_known = |number: u64| {
        let bits = splitmix64(key.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let uniform = (bits >> 11) as f64 / (1u64 << 53) as f64; // 53 bits, as many as an f64 holds: in [0, 1)
        f32::from(u8::from(uniform >= missing))
    };
    let of_row = |row: &i64| {
        let first = (*row as u64).wrapping_mul(pixels);
        (0..pixels).map(move |pixel| first.wrapping_add(pixel))
    };
    let known: Vec<f32> = rows.iter().flat_map(of_row).map(is_known).collect();
    Tensor::from_slice(&known).view([-1, 1, height, width]).to_device(device)
}
