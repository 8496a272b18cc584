//! Random views of an image.

use heldout_core::stream;
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Rotated, scaled, moved and mirrored copies of images, differentiable.
///
/// The draws are a function of the seed, the time and the number of the copy, the same for all samples: a set of samples is
/// the same however it is split into batches.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomAffine {
    /// Copies of each image.
    pub copies: i64,
    /// Turned by at most so many degrees to either side.
    pub degrees: f64,
    /// Moved by at most this share of the side.
    pub translate: f64,
    /// Least and greatest magnification.
    pub scale: [f64; 2],
    /// Mirrored, every other time.
    pub flip: bool,
    /// The seed.
    pub seed: u64,
}

impl RandomAffine {
    /// `[B, C, H, W]` to `[copies * B, C, H, W]`, all images once, then all again.
    pub fn apply(&self, images: &Tensor, t: &Tensor) -> Tensor {
        let size = images.size();
        let time = t.double_value(&[0]).to_bits();
        let copies: Vec<Tensor> = (0..self.copies)
            .map(|copy| {
                tch::manual_seed(stream(self.seed, "guidance augmentation", time, copy as u64) as i64);
                let draws = Vec::<f64>::try_from(Tensor::rand([5], (Kind::Double, Device::Cpu)));
                let theta = self.matrix(&draws.unwrap_or_else(|_| vec![0.5; 5]));
                let theta = Tensor::from_slice(&theta).view([1, 2, 3]).expand([size[0], 2, 3], false);
                let theta = theta.to_kind(images.kind()).to_device(images.device());
                let grid = Tensor::affine_grid_generator(&theta, size.as_slice(), false);
                images.grid_sampler(&grid, 0, 1, false) // bilinear; the border goes on
            })
            .collect();
        Tensor::cat(&copies, 0)
    }

    /// From output to input coordinates, from five numbers in `[0, 1)`.
    fn matrix(&self, draws: &[f64]) -> [f64; 6] {
        let around = |x: f64| 2.0 * x - 1.0;
        let (sin, cos) = (around(draws[0]) * self.degrees).to_radians().sin_cos();
        let zoom = 1.0 / (self.scale[0] + (self.scale[1] - self.scale[0]) * draws[1]);
        let (x, y) = (2.0 * self.translate * around(draws[2]), 2.0 * self.translate * around(draws[3]));
        let mirror = if self.flip && draws[4] < 0.5 { -1.0 } else { 1.0 };
        [zoom * cos * mirror, -zoom * sin, x, zoom * sin * mirror, zoom * cos, y]
    }
}
