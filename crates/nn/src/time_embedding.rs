//! The noise level as a vector.

use crate::layers::{Embedding, Linear, ZERO, fixed_gaussian};
use crate::{Activation, tally};
use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// How a network sees the noise level: one enum for every backbone.
///
/// Every kind gives a vector of the network's embedding width; `mlp` learns one from the features of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum TimeEmbeddingConfig {
    /// The raw number times `scale`, and a linear layer: the baseline.
    Linear {
        /// Brings the level to about 1; 0.001 for steps up to 1000.
        scale: f64,
    },
    /// Cosines and sines of fixed frequencies; Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B.
    Sinusoidal {
        /// Whether cosines come first.
        flip_sin_to_cos: bool,
        /// Taken from the number of frequencies in their spacing: 0 in most papers, 1 in the original DDPM.
        freq_shift: f64,
    },
    /// Sines and cosines of Gaussian frequencies that are drawn once for all; Tancik et al. 2020; Song et al. 2021, appendix C.
    Fourier {
        /// Deviation of the frequencies.
        scale: f64,
        /// Whether the logarithm of the level is taken first.
        log: bool,
        /// Whether cosines come first.
        flip_sin_to_cos: bool,
    },
    /// A learned vector for each of `levels` whole numbers.
    Table {
        /// How many.
        levels: i64,
    },
    /// Two linear layers with an activation between on the features of another kind.
    Mlp {
        /// Whose features.
        of: Box<Self>,
    },
}

impl Default for TimeEmbeddingConfig {
    /// A learned MLP on sinusoids, cosines first.
    fn default() -> Self {
        Self::Mlp { of: Box::new(Self::Sinusoidal { flip_sin_to_cos: true, freq_shift: 0.0 }) }
    }
}

impl TimeEmbeddingConfig {
    /// How many levels it can look up, if it is a table.
    pub fn levels(&self) -> Option<i64> {
        match self {
            Self::Table { levels } => Some(*levels),
            Self::Mlp { of } => of.levels(),
            _ => None,
        }
    }

    /// Which field cannot be honoured; `width` is that of the features.
    pub fn check(&self, width: i64) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        match self {
            Self::Linear { scale } | Self::Fourier { scale, .. } if !(scale.is_finite() && *scale != 0.0) => {
                fail("scale", format!("{scale} is not a number other than 0"))
            }
            Self::Sinusoidal { freq_shift, .. }
                if !freq_shift.is_finite() || *freq_shift >= (width / 2) as f64 =>
            {
                fail("freq_shift", format!("{freq_shift} is not less than {}, half the width", width / 2))
            }
            Self::Fourier { .. } if width % 2 != 0 => {
                fail("kind", format!("fourier needs an even width, not {width}"))
            }
            Self::Table { levels } if *levels < 1 => {
                fail("levels", format!("{levels}: at least 1 is needed"))
            }
            Self::Mlp { of } if matches!(**of, Self::Mlp { .. }) => {
                fail("of.kind", "mlp of mlp: name the features".to_owned())
            }
            Self::Mlp { of } => of.check(width).map_err(|e| e.within("of")),
            _ => Ok(()),
        }
    }
}

/// `[cos(level w_i), sin(level w_i)]` with frequencies from 1 down to about 1/10000: `[B] -> [B, width]`, f32.
///
/// As diffusers' `Timesteps`, in the order of its operations, since a level of 1000 carries their rounding to the fourth
/// digit. An odd width ends in a 0.
pub fn sinusoidal(level: &Tensor, width: i64, flip_sin_to_cos: bool, freq_shift: f64) -> Tensor {
    let half = width / 2;
    let exponent = Tensor::arange(half, (Kind::Float, tally::device(level))) * -(10_000f64.ln());
    let frequencies = tally::beside((exponent / (half as f64 - freq_shift)).exp(), level);
    let angle = level.to_kind(Kind::Float).unsqueeze(1) * frequencies; // [B, half]
    let (sin, cos) = (angle.sin(), angle.cos());
    let parts = if flip_sin_to_cos { [cos, sin] } else { [sin, cos] };
    let features = Tensor::cat(&parts, 1);
    if width % 2 == 0 { features } else { features.constant_pad_nd([0, 1]) }
}

/// A noise level, or any other number of a row, as features.
#[derive(Debug)]
enum Features {
    Linear { scale: f64, linear: Option<Linear> },
    Sinusoidal { width: i64, flip_sin_to_cos: bool, freq_shift: f64 },
    Fourier { frequencies: Tensor, log: bool, flip_sin_to_cos: bool },
    Table(Embedding),
}

impl Features {
    fn forward(&self, level: &Tensor, kind: Kind) -> Tensor {
        let features = match self {
            Self::Linear { scale, linear } => {
                let x = (level * *scale).unsqueeze(1).to_kind(kind);
                match linear {
                    Some(linear) => linear.forward(&x),
                    None => x,
                }
            }
            Self::Sinusoidal { width, flip_sin_to_cos, freq_shift } => {
                sinusoidal(level, *width, *flip_sin_to_cos, *freq_shift)
            }
            Self::Fourier { frequencies, log, flip_sin_to_cos } => {
                let level = if *log { level.log() } else { level.shallow_clone() };
                let angle = level.unsqueeze(1) * frequencies.unsqueeze(0) * 2.0 * std::f64::consts::PI;
                let (sin, cos) = (angle.sin(), angle.cos());
                Tensor::cat(&if *flip_sin_to_cos { [cos, sin] } else { [sin, cos] }, 1)
            }
            Self::Table(table) => table.forward(level),
        };
        features.to_kind(kind)
    }
}

/// Two linear layers with an activation between: `[B, from] -> [B, to]`. diffusers' `TimestepEmbedding`.
#[derive(Debug)]
pub struct EmbeddingMlp {
    linear_1: Linear,
    linear_2: Linear,
    cond_proj: Option<Linear>,
    activation: Activation,
    post: Option<Activation>,
}

/// What an [`EmbeddingMlp`] may have besides its two layers.
#[derive(Debug, Clone, Copy, Default)]
pub struct MlpOptions {
    /// Between the layers.
    pub activation: Activation,
    /// After them.
    pub post: Option<Activation>,
    /// Width of a vector that is projected and added to the input.
    pub cond: Option<i64>,
    /// Gaussian weights of this deviation and biases of 0; as PyTorch starts them if absent.
    pub std: Option<f64>,
}

impl EmbeddingMlp {
    /// Under `vs`: `linear_1`, `linear_2` and, where a condition is added, `cond_proj`.
    pub fn new(vs: &nn::Path<'_>, from: i64, to: i64, options: MlpOptions) -> Self {
        let linear = |name, from| match options.std {
            Some(stdev) => {
                let init = nn::Init::Randn { mean: 0.0, stdev };
                Linear::start(&(vs / name), from, to, init, Some(ZERO))
            }
            None => Linear::new(&(vs / name), from, to),
        };
        Self {
            linear_1: linear("linear_1", from),
            linear_2: linear("linear_2", to),
            cond_proj: options.cond.map(|c| Linear::with_bias(&(vs / "cond_proj"), c, from, false)),
            activation: options.activation,
            post: options.post,
        }
    }

    /// `x` `[B, from]`, `cond` `[B, cond]` to `[B, to]`, in the kind of the weights.
    pub fn forward(&self, x: &Tensor, cond: Option<&Tensor>) -> Tensor {
        let x = x.to_kind(self.linear_1.weight.kind());
        let x = match (&self.cond_proj, cond) {
            (Some(project), Some(cond)) => x + project.forward(cond),
            _ => x,
        };
        let out = self.linear_2.forward(&self.activation.apply(&self.linear_1.forward(&x)));
        self.post.map_or_else(|| out.shallow_clone(), |post| post.apply(&out))
    }
}

/// The noise level as a vector: `[B] -> [B, out]`.
#[derive(Debug)]
pub struct TimeEmbedding {
    features: Features,
    mlp: Option<EmbeddingMlp>,
    kind: Kind,
}

impl TimeEmbedding {
    /// Under `projection`: what the features store; under `vs`: the layers of the MLP. `width` is that of the features where
    /// an MLP stands behind them; without one they have the width `out`.
    pub fn new(
        projection: &nn::Path<'_>,
        vs: &nn::Path<'_>,
        config: &TimeEmbeddingConfig,
        [width, out]: [i64; 2],
        options: MlpOptions,
    ) -> Self {
        let (features, has_mlp) = match config {
            TimeEmbeddingConfig::Mlp { of } => (&**of, true),
            other => (other, false),
        };
        let width = if has_mlp { width } else { out };
        let features = match *features {
            TimeEmbeddingConfig::Linear { scale } => {
                let linear = (!has_mlp).then(|| Linear::new(projection, 1, out));
                Features::Linear { scale, linear }
            }
            TimeEmbeddingConfig::Sinusoidal { flip_sin_to_cos, freq_shift } => {
                Features::Sinusoidal { width, flip_sin_to_cos, freq_shift }
            }
            TimeEmbeddingConfig::Fourier { scale, log, flip_sin_to_cos } => {
                let frequencies = fixed_gaussian(projection, "weight", width / 2, scale);
                Features::Fourier { frequencies, log, flip_sin_to_cos }
            }
            TimeEmbeddingConfig::Table { levels } => {
                Features::Table(Embedding::new(projection, levels, width, 1.0))
            }
            TimeEmbeddingConfig::Mlp { .. } => unreachable!("`check` refuses an MLP of an MLP"),
        };
        let from = if matches!(features, Features::Linear { .. }) { 1 } else { width };
        let mlp = has_mlp.then(|| EmbeddingMlp::new(vs, from, out, options));
        Self { features, mlp, kind: vs.kind() }
    }

    /// Whether every level `[B]` can be looked up, where there is a table; `field` names what they are.
    pub fn check(&self, field: &str, level: &Tensor) -> Result<()> {
        let Features::Table(table) = &self.features else { return Ok(()) };
        let (low, high) = (level.min().double_value(&[]), level.max().double_value(&[]));
        // Levels between two rows are cut to whole numbers.
        if low > -1.0 && high < table.rows() as f64 {
            return Ok(());
        }
        let bad = if low > -1.0 { high } else { low };
        let reason = format!("{bad}: the network has a table of the levels 0 to {}", table.rows() - 1);
        Err(Error::config(field, reason))
    }

    /// The features alone, of any number `[B]`, in the kind of the weights.
    pub fn features(&self, level: &Tensor) -> Tensor {
        let kind = self.mlp.as_ref().map_or(self.kind, |mlp| mlp.linear_1.weight.kind());
        self.features.forward(level, kind)
    }

    /// `c_noise` `[B]`, and what is added to its features `[B, cond]`, to `[B, out]` in the kind of the weights.
    pub fn forward(&self, level: &Tensor, cond: Option<&Tensor>) -> Tensor {
        let features = self.features(level);
        match &self.mlp {
            Some(mlp) => mlp.forward(&features, cond),
            None => features,
        }
    }
}
