//! A common offset in the noise of each channel.

use heldout_core::{Clock, Curve, CurveConfig, NoiseDraw, NoiseSource, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of [`OffsetNoise`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OffsetNoiseConfig {
    /// Standard deviation of the offset: 0.1 in the article; from 0 up.
    pub strength: CurveConfig,
}

impl OffsetNoiseConfig {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        self.strength.check("strength", 0.0, f64::INFINITY)
    }
}

/// `noise + strength * z`, `z ~ N(0, 1)` of `[B, C, 1, 1]`, applied and asked for alike; Guttenberg 2023, "Diffusion with
/// offset noise".
///
/// Means of images hide from white noise until the highest noise levels; with an offset they are learned at all.
///
/// Law: the target has variance `1 + strength^2`.
#[derive(Debug)]
pub struct OffsetNoise<N> {
    inner: N,
    config: OffsetNoiseConfig,
}

impl<N: NoiseSource> OffsetNoise<N> {
    /// Around `inner`, with `config` checked.
    pub fn new(inner: N, config: OffsetNoiseConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { inner, config })
    }
}

impl<N: NoiseSource> NoiseSource for OffsetNoise<N> {
    fn draw(&mut self, x_start: &Tensor, t: &Tensor, clock: Clock) -> NoiseDraw {
        let draw = self.inner.draw(x_start, t, clock);
        let strength = self.config.strength.at(clock);
        if strength == 0.0 {
            return draw;
        }
        let of = [x_start.size()[0], x_start.size()[1], 1, 1];
        let offset = Tensor::randn(of, (x_start.kind(), x_start.device())) * strength;
        NoiseDraw { applied: draw.applied + &offset, target: draw.target + offset }
    }
}
