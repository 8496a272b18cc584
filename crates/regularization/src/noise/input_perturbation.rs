//! Noise on top of the noise, which the network is not asked for.

use heldout_core::{Clock, Curve, CurveConfig, NoiseDraw, NoiseSource, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Settings of [`InputPerturbation`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct InputPerturbationConfig {
    /// The paper's `gamma`: 0.1 there, 0.15 for CIFAR-10; from 0 up.
    pub strength: CurveConfig,
}

impl InputPerturbationConfig {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        self.strength.check("strength", 0.0, f64::INFINITY)
    }
}

/// `applied = noise + gamma * fresh noise`, while the target stays `noise`; `[B, C, H, W]`. Ning et al. 2023 (DDPM-IP):
/// `x_t = alpha x_start + sigma (noise + gamma xi)`, `xi ~ N(0, I)`.
///
/// The network sees inputs as far off as its own mistakes put them while sampling, which lessens exposure bias.
///
/// Law: the target is that of the source inside, to the last bit.
#[derive(Debug)]
pub struct InputPerturbation<N> {
    inner: N,
    config: InputPerturbationConfig,
}

impl<N: NoiseSource> InputPerturbation<N> {
    /// Around `inner`, with `config` checked.
    pub fn new(inner: N, config: InputPerturbationConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { inner, config })
    }
}

impl<N: NoiseSource> NoiseSource for InputPerturbation<N> {
    fn draw(&mut self, x_start: &Tensor, t: &Tensor, clock: Clock) -> NoiseDraw {
        let NoiseDraw { applied, target } = self.inner.draw(x_start, t, clock);
        match self.config.strength.at(clock) {
            0.0 => NoiseDraw { applied, target },
            gamma => NoiseDraw { applied: applied + x_start.randn_like() * gamma, target },
        }
    }
}
