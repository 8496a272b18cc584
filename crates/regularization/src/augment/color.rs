//! Colours of images in `[0, 1]`, changed by a factor for each row; clamped to `[0, 1]`.
//!
//! Grey is `0.2989 R + 0.587 G + 0.114 B` (ITU-R BT.601).

use heldout_core::like;
use tch::{Kind, Tensor};

/// `factor * x + (1 - factor) * other`, clamped; `factor` `[B]`.
fn blend(x: &Tensor, other: &Tensor, factor: &Tensor) -> Tensor {
    let factor = like(factor, x);
    (x * &factor + other * (1.0f64 - factor)).clamp(0.0, 1.0)
}

/// `[B, 1, H, W]` of `x` `[B, 3, H, W]`; `x` itself if it has one channel.
fn grey(x: &Tensor) -> Tensor {
    if x.size()[1] == 1 {
        return x.shallow_clone();
    }
    let part = |i: i64| x.narrow(1, i, 1);
    part(0) * 0.2989 + part(1) * 0.587 + part(2) * 0.114
}

/// `x` `[B, C, H, W]` times `factor` `[B]`.
pub fn adjust_brightness(x: &Tensor, factor: &Tensor) -> Tensor {
    (x * like(factor, x)).clamp(0.0, 1.0)
}

/// `x` `[B, C, H, W]`, 1 or 3 channels, with its distance to the mean of its grey multiplied by `factor` `[B]`.
pub fn adjust_contrast(x: &Tensor, factor: &Tensor) -> Tensor {
    blend(x, &grey(x).mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float), factor)
}

/// `x` `[B, 3, H, W]` with its distance to grey multiplied by `factor` `[B]`.
pub fn adjust_saturation(x: &Tensor, factor: &Tensor) -> Tensor {
    blend(x, &grey(x), factor)
}

/// `x` `[B, 3, H, W]` with its hue turned by `share` `[B]` of the colour circle; Smith 1978, the hexcone model.
pub fn adjust_hue(x: &Tensor, share: &Tensor) -> Tensor {
    let part = |i: i64| x.narrow(1, i, 1);
    let (r, g, b) = (part(0), part(1), part(2));
    let value = x.amax([1i64].as_slice(), true);
    let chroma = &value - x.amin([1i64].as_slice(), true);
    let safe = chroma.clamp_min(1e-12); // Grey has no hue, and shows none.
    let of_b = (&r - &g) / &safe + 4.0;
    let of_g = ((&b - &r) / &safe + 2.0).where_self(&g.eq_tensor(&value), &of_b);
    let hue = ((&g - &b) / safe).where_self(&r.eq_tensor(&value), &of_g); // In sixths of the circle.
    let hue = hue + like(share, x) * 6.0;
    let channel = |n: f64| {
        let k = (&hue + n).remainder(6.0);
        let fall = k.minimum(&(4.0f64 - &k)).clamp(0.0, 1.0);
        &value - &chroma * fall
    };
    Tensor::cat(&[channel(5.0), channel(3.0), channel(1.0)], 1).clamp(0.0, 1.0)
}
