//! Places as numbers.

use crate::tally;
use tch::{Device, Kind, Tensor};

/// Sines, then cosines of `places` `[L]` (f64) times frequencies from 1 down to about 1/10000: `[L, width]`, f64; Vaswani
/// et al. 2017, section 3.5. `width` is even.
pub fn sin_cos(places: &Tensor, width: i64) -> Tensor {
    let half = width / 2;
    let exponent = Tensor::arange(half, (Kind::Double, places.device())) / (width as f64 / 2.0);
    let omega = 1.0 / Tensor::full([half], 10_000.0, (Kind::Double, places.device())).pow(&exponent);
    let angle = places.outer(&omega);
    Tensor::cat(&[angle.sin(), angle.cos()], 1)
}

/// Fixed positions of a grid of `height` by `width` places, row by row: `[height * width, channels]`, f32; the first half of
/// the channels tells the column, the second the row (Dosovitskiy et al. 2021 in the form of DiT, Peebles and Xie 2023).
///
/// A grid of another size than `base` is stretched to it, so that a network sees the range that it was trained with.
/// `channels` is a multiple of 4.
pub fn sin_cos_2d(height: i64, width: i64, base: i64, channels: i64) -> Tensor {
    // In f32 as the peers have it: their places are rounded before their angles are taken.
    let line = |n: i64| {
        let places = Tensor::arange(n, (Kind::Float, Device::Cpu)) / (n as f64 / base as f64);
        places.to_kind(Kind::Double)
    };
    let rows = line(height).unsqueeze(1).expand([height, width], false).reshape([-1]);
    let columns = line(width).unsqueeze(0).expand([height, width], false).reshape([-1]);
    let halves = [sin_cos(&columns, channels / 2), sin_cos(&rows, channels / 2)];
    Tensor::cat(&halves, 1).to_kind(Kind::Float)
}

/// Rotary positions: pairs of channels of queries and keys are turned by angles that grow with the place; Su et al. 2021,
/// Eq. 34. On a grid one half of a head turns with the row, the other with the column; Fang et al. 2023 (EVA-02).
///
/// Law: the product of a turned query and a turned key depends on the difference of their places alone.
#[derive(Debug)]
pub struct Rotary {
    /// `[L, head_dim / 2]`.
    cos: Tensor,
    sin: Tensor,
}

impl Rotary {
    /// For the places of a grid, row by row; `head_dim` is a multiple of 4.
    pub fn grid(height: i64, width: i64, head_dim: i64, like: &Tensor) -> Self {
        let f64s = (Kind::Double, Device::Cpu);
        let quarter = head_dim / 4;
        let exponent = Tensor::arange(quarter, f64s) / quarter as f64;
        let omega = 1.0 / Tensor::full([quarter], 10_000.0, f64s).pow(&exponent);
        let line = |n: i64| Tensor::arange(n, f64s).outer(&omega); // [n, head_dim / 4]
        let rows = line(height).unsqueeze(1).expand([height, width, quarter], false);
        let columns = line(width).unsqueeze(0).expand([height, width, quarter], false);
        let angle = Tensor::cat(&[rows, columns], 2).reshape([height * width, head_dim / 2]);
        Self { cos: tally::same_place(angle.cos(), like), sin: tally::same_place(angle.sin(), like) }
    }

    /// `[B, heads, L, head_dim]`, of the same shape.
    pub fn turn(&self, x: &Tensor) -> Tensor {
        let pairs = x.unflatten(-1, [-1, 2]); // [B, heads, L, head_dim / 2, 2]
        let (a, b) = (pairs.select(-1, 0), pairs.select(-1, 1));
        let turned = [&a * &self.cos - &b * &self.sin, &a * &self.sin + &b * &self.cos];
        Tensor::stack(&turned, -1).flatten(-2, -1)
    }
}
