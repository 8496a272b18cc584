//! How far the motion in clips is from that in other clips.

use crate::energy_distance;
use heldout_core::{Error, Result};
use tch::Tensor;

/// The changes `x[t + 1] - x[t]` of clips `[N, C T, H, W]`, whose channels are all frames of a channel and then those of the
/// next: `[N, C (T - 1), H, W]`.
///
/// # Errors
/// Fewer than two frames, or channels that are not so many frames each.
pub fn frame_changes(clips: &Tensor, frames: i64) -> Result<Tensor> {
    let size = clips.size();
    if frames < 2 || size.len() != 4 || size[1] % frames != 0 {
        let reason =
            format!("{frames} of clips {size:?}: at least 2 are needed, of each channel in [N, C T, H, W]");
        return Err(Error::config("frames", reason));
    }
    let apart = clips.f_unflatten(1, [size[1] / frames, frames])?;
    let (next, now) = (apart.narrow(2, 1, frames - 1), apart.narrow(2, 0, frames - 1));
    Ok((next - now).flatten(1, 2))
}

/// The [`energy_distance`] of the [`frame_changes`] of two sets of clips: frames that are right each for itself, in an order or
/// at places that no clip has, are far.
///
/// # Errors
/// Those of both.
pub fn motion_distance(x: &Tensor, y: &Tensor, frames: i64) -> Result<f64> {
    energy_distance(&frame_changes(x, frames)?, &frame_changes(y, frames)?)
}
