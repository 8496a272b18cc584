//! Noise with a share of coarse noise.

use heldout_core::{Clock, Curve, CurveConfig, NoiseDraw, NoiseSource, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of [`MultiResolutionNoise`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct MultiResolutionNoiseConfig {
    /// The discount: level `i` has weight `strength^i`; 0.8 in the article, in `[0, 1]`.
    pub strength: CurveConfig,
    /// How many coarse levels at most; those that would be smaller than a pixel are left out.
    #[serde(default = "levels")]
    pub levels: u32,
}

fn levels() -> u32 {
    4
}

impl MultiResolutionNoiseConfig {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        self.strength.check("strength", 0.0, 1.0)
    }
}

/// `(noise + sum_i strength^i up(noise_i)) / std`, `noise_i` of `[B, C, H / 2^i, W / 2^i]`, up-sampled bilinearly, applied
/// and asked for alike; Whitaker 2023, "Multi-resolution noise for diffusion model training".
///
/// Coarse structure hides from white noise until the highest noise levels; coarse noise covers it at all. Two things
/// differ from the article: the sizes are halved where it draws a ratio between 2 and 4, so that a level is a function of
/// the shape; and `std` is the exact standard deviation at each place where it measures that of the batch, so that no row
/// depends on another.
///
/// Law: the target has variance 1 at every place.
#[derive(Debug)]
pub struct MultiResolutionNoise<N> {
    inner: N,
    config: MultiResolutionNoiseConfig,
}

impl<N: NoiseSource> MultiResolutionNoise<N> {
    /// Around `inner`, with `config` checked.
    pub fn new(inner: N, config: MultiResolutionNoiseConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { inner, config })
    }
}

impl<N: NoiseSource> NoiseSource for MultiResolutionNoise<N> {
    fn draw(&mut self, x_start: &Tensor, t: &Tensor, clock: Clock) -> NoiseDraw {
        let draw = self.inner.draw(x_start, t, clock);
        let discount = self.config.strength.at(clock);
        if discount == 0.0 {
            return draw;
        }
        let size = x_start.size();
        let (b, c, h, w) = (size[0], size[1], size[2], size[3]);
        let mut coarse = x_start.zeros_like();
        let mut variance = vec![1.0; (h * w) as usize];
        for level in 1..=self.config.levels {
            let (small_h, small_w) = (h.unbounded_shr(level), w.unbounded_shr(level));
            if small_h == 0 || small_w == 0 {
                break;
            }
            let weight = discount.powi(level as i32);
            let noise = Tensor::randn([b, c, small_h, small_w], (x_start.kind(), x_start.device()));
            coarse += noise.upsample_bilinear2d([h, w], false, None, None) * weight;
            let (rows, columns) = (variance_of(small_h, h), variance_of(small_w, w));
            let places =
                rows.iter().flat_map(|of_row| columns.iter().map(move |of_column| of_row * of_column));
            variance.iter_mut().zip(places).for_each(|(sum, of)| *sum += weight * weight * of);
        }
        let std = Tensor::from_slice(&variance).sqrt().view([h, w]);
        let std = std.to_kind(x_start.kind()).to_device(x_start.device());
        NoiseDraw { applied: (draw.applied + &coarse) / &std, target: (draw.target + coarse) / std }
    }
}

/// Variance of `small` unit Gaussians that are up-sampled linearly to `large`, at each place: the sum of the squared
/// weights of its two neighbours.
fn variance_of(small: i64, large: i64) -> Vec<f64> {
    let at = |i: i64| {
        let place = ((i as f64 + 0.5) * small as f64 / large as f64 - 0.5).clamp(0.0, (small - 1) as f64);
        let share = place.fract();
        share * share + (1.0 - share) * (1.0 - share)
    };
    (0..large).map(at).collect()
}
