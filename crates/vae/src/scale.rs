//! What brings latents to about unit variance.

use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// `(z - shift) * scale` and the way back; one number for all channels, or one for each.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentScale {
    /// Subtracted, in the unit of what the encoder gives.
    pub shift: Vec<f64>,
    /// Then multiplied by.
    pub scale: Vec<f64>,
}

impl LatentScale {
    /// The same for all channels.
    pub fn uniform(shift: f64, scale: f64) -> Self {
        Self { shift: vec![shift], scale: vec![scale] }
    }

    /// Latents as they are.
    pub fn identity() -> Self {
        Self::uniform(0.0, 1.0)
    }

    /// Shift and scale of each of `channels` channels.
    pub fn by_channel(&self, channels: i64) -> (Vec<f64>, Vec<f64>) {
        let spread = |values: &[f64]| (0..channels as usize).map(|i| values[i % values.len()]).collect();
        (spread(&self.shift), spread(&self.scale))
    }

    /// Both numbers, if they are the same for all channels.
    pub fn as_uniform(&self) -> Option<(f64, f64)> {
        let same = |all: &[f64]| all.iter().all(|n| *n == all[0]).then_some(all[0]);
        Some((same(&self.shift)?, same(&self.scale)?))
    }

    /// Which field cannot be honoured for latents of `channels` channels.
    pub fn check(&self, channels: i64) -> Result<()> {
        for (field, values) in [("shift", &self.shift), ("scale", &self.scale)] {
            if values.len() != 1 && values.len() as i64 != channels {
                let reason = format!("{} values for {channels} latent channels", values.len());
                return Err(Error::config(field, reason));
            }
            if let Some(bad) = values.iter().find(|v| !v.is_finite() || (field == "scale" && **v == 0.0)) {
                let reason = format!("{bad}: finite numbers are needed, and a scale other than 0");
                return Err(Error::config(field, reason));
            }
        }
        Ok(())
    }

    /// `z` `[B, c, ..]` of the encoder to latents of about unit variance.
    pub fn apply(&self, z: &Tensor) -> Tensor {
        if let Some((shift, scale)) = self.as_uniform() {
            return if shift == 0.0 { z * scale } else { (z - shift) * scale };
        }
        (z - along_channels(&self.shift, z)) * along_channels(&self.scale, z)
    }

    /// The way back.
    pub fn invert(&self, z: &Tensor) -> Tensor {
        if let Some((shift, scale)) = self.as_uniform() {
            return if shift == 0.0 { z / scale } else { z / scale + shift };
        }
        z / along_channels(&self.scale, z) + along_channels(&self.shift, z)
    }

    /// This and then `next`, as one: what was measured of scaled latents becomes a scale of what the encoder gives.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        let n = [&self.shift, &self.scale, &next.shift, &next.scale].map(Vec::len).into_iter().max();
        let at = |values: &[f64], i: usize| values[i % values.len()];
        let each = (0..n.unwrap_or(1)).map(|i| {
            let (scale, shift) = (at(&self.scale, i), at(&self.shift, i));
            (shift + at(&next.shift, i) / scale, scale * at(&next.scale, i))
        });
        let (shift, scale) = each.unzip();
        Self { shift, scale }
    }
}

/// `[1, c, 1, 1]` where `z` is.
fn along_channels(values: &[f64], z: &Tensor) -> Tensor {
    let shape: Vec<i64> = (0..z.dim()).map(|d| if d == 1 { values.len() as i64 } else { 1 }).collect();
    Tensor::from_slice(values).view(shape.as_slice()).to_kind(z.kind()).to_device(z.device())
}
