//! Latents are drawn to the features of a frozen network.

use super::{FrozenMaps, balance};
use heldout_core::{Error, Result};
use heldout_nn::{Linear, to_tokens};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// A term of the loss that brings latents near the features of a frozen network, place by place and pair by pair.
///
/// Yao et al. 2025 (VA-VAE), Eq. 2 to 6: a linear projection of the latents should have a cosine with the features of at least
/// `1 - cosine_margin`; the cosines between the latents of two places of an image should differ from those between their
/// features by at most `gram_margin`. Balanced by the gradients at the encoder's last layer. The finer of both grids is
/// averaged down to the coarser.
///
/// Law: 0 where latents are the features times a positive number; no gradient goes to the frozen network.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LatentAlignmentConfig {
    /// Multiplies the balanced term.
    pub weight: f64,
    /// `m_1` of Eq. 3.
    pub cosine_margin: f64,
    /// `m_2` of Eq. 4.
    pub gram_margin: f64,
}

impl Default for LatentAlignmentConfig {
    fn default() -> Self {
        Self { weight: 0.1, cosine_margin: 0.5, gram_margin: 0.25 }
    }
}

impl LatentAlignmentConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let Self { weight, cosine_margin, gram_margin } = self;
        if !(weight.is_finite() && *weight > 0.0) {
            return Err(Error::config("weight", format!("{weight}: a finite number above 0 is needed")));
        }
        for (field, margin) in [("cosine_margin", cosine_margin), ("gram_margin", gram_margin)] {
            if !(0.0..2.0).contains(margin) {
                let reason = format!("{margin}: 0 up to 2, the largest difference of two cosines, is needed");
                return Err(Error::config(field, reason));
            }
        }
        Ok(())
    }

    /// With a projection from `channels`, whose `weight` is made under `vs` and trained with the model.
    pub fn build(&self, vs: &nn::Path<'_>, channels: i64, frozen: FrozenMaps) -> Result<LatentAlignment> {
        self.check()?;
        let projection = Linear::with_bias(vs, channels, frozen.width(), false);
        Ok(LatentAlignment { config: *self, projection, frozen })
    }
}

/// The term of [`LatentAlignmentConfig`].
#[derive(Debug)]
pub struct LatentAlignment {
    config: LatentAlignmentConfig,
    projection: Linear,
    frozen: FrozenMaps,
}

/// Both parts of the term, `[B]`.
pub(crate) struct Parts {
    pub(crate) cosine: Tensor,
    pub(crate) gram: Tensor,
}

/// `[B, N, C]` with every token of length 1.
fn unit(tokens: &Tensor) -> Tensor {
    let float = tokens.to_kind(Kind::Float);
    let length = float.square().sum_dim_intlist(-1i64, true, Kind::Float).clamp_min(1e-12).sqrt();
    float / length
}

impl LatentAlignment {
    /// Of latents `[B, c, h, w]` with the features of their images `x` `[B, C, H, W]`.
    pub(crate) fn parts(&self, latents: &Tensor, x: &Tensor) -> Result<Parts> {
        let maps = self.frozen.maps(x)?;
        let (a, b) = (latents.size(), maps.size());
        let grid = [a[2].min(b[2]), a[3].min(b[3])];
        let on_grid = |x: &Tensor| match x.size()[2..] == grid {
            true => to_tokens(x),
            false => to_tokens(&x.adaptive_avg_pool2d(grid)),
        };
        let (z, f) = (on_grid(latents), unit(&on_grid(&maps))); // [B, N, c], [B, N, D]
        let cosine = (unit(&self.projection.forward(&z)) * &f).sum_dim_intlist(-1i64, false, Kind::Float);
        let gram = |unit: &Tensor| unit.matmul(&unit.transpose(1, 2)); // [B, N, N]
        let apart = (gram(&unit(&z)) - gram(&f)).abs();
        let LatentAlignmentConfig { weight: _, cosine_margin, gram_margin } = self.config;
        Ok(Parts {
            cosine: heldout_core::mean_flat(&(1.0 - cosine_margin - cosine).relu()),
            gram: heldout_core::mean_flat(&(apart - gram_margin).relu()),
        })
    }

    /// The balanced term, `[B]`, and the scalars for the log; `loss` is one number, the reconstruction's, and `last` the weight
    /// of the encoder's last layer. Without gradients the balance is 1.
    pub(crate) fn term(
        &self,
        latents: &Tensor,
        x: &Tensor,
        loss: &Tensor,
        last: &Tensor,
    ) -> Result<(Tensor, [(&'static str, Tensor); 3])> {
        let Parts { cosine, gram } = self.parts(latents, x)?;
        let term = &cosine + &gram;
        let scalar = term.mean(Kind::Float);
        let balance = match scalar.requires_grad() {
            true => balance(loss, &scalar, last)?,
            false => scalar.ones_like(),
        };
        let mean = |t: Tensor| t.detach().mean(Kind::Float);
        let terms = [
            ("alignment_cosine", mean(cosine)),
            ("alignment_gram", mean(gram)),
            ("alignment_balance", balance.shallow_clone()),
        ];
        Ok((term * balance * self.config.weight, terms))
    }
}
