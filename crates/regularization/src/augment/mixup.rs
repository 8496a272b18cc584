//! Images between two images.

use super::pick::{always, check_probability, only, picked};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Error, Result, like};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// `lambda x_i + (1 - lambda) x_j`, `lambda ~ Beta(alpha, alpha)` of `[B]`, `j` a permutation of the batch;
/// `[B, C, H, W]`. Zhang et al. 2018, section 2.
///
/// Label vectors `[B, D]` are mixed alike. Everything else that a row is told, class ids among it, and its index are those
/// of the image with the larger share. Of partly known data is known what is known of both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Mixup {
    /// How many images are mixed.
    #[serde(default = "always")]
    pub probability: CurveConfig,
    /// Of the beta distribution, above 0: near 0 one image prevails, at 1 all shares are as likely; 0.1 to 0.4 in the paper.
    pub alpha: f64,
}

impl Mixup {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        check_probability(&self.probability)?;
        if self.alpha > 0.0 && self.alpha.is_finite() {
            return Ok(());
        }
        Err(Error::config("alpha", format!("{} is not a number above 0", self.alpha)))
    }

    /// Shares of the own image, `[B]`, f64: a beta variable is a gamma variable's share of two.
    fn shares(&self, x: &Tensor) -> Tensor {
        let alpha = Tensor::full([2, x.size()[0]], self.alpha, (Kind::Double, x.device()));
        let gamma = alpha.internal_standard_gamma().clamp_min(f64::MIN_POSITIVE);
        gamma.select(0, 0) / gamma.sum_dim_intlist([0i64].as_slice(), false, Kind::Double)
    }
}

impl Augment for Mixup {
    fn augment(&mut self, batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 {
            return batch;
        }
        let rows = picked(&batch.x_start, probability);
        let share = self.shares(&batch.x_start);
        let own = Tensor::arange(batch.len(), (Kind::Int64, batch.x_start.device()));
        let partner = Tensor::randperm(batch.len(), (Kind::Int64, batch.x_start.device()));
        let partner = only(&rows, &partner, &own);
        let mix = |x: &Tensor| {
            let share = like(&share, x);
            let mixed = x * &share + x.index_select(0, &partner) * (1.0f64 - share);
            only(&rows, &mixed, x)
        };
        let larger = only(&share.ge(0.5), &own, &partner);
        let mut mixed = batch.select(&larger);
        mixed.x_start = mix(&batch.x_start);
        if let Some(label) = batch.cond.label.as_ref().filter(|label| label.kind() != Kind::Int64) {
            mixed.cond.label = Some(mix(label));
        }
        mixed.known = batch.known.map(|known| known.map(|mask| mask * mask.index_select(0, &partner)));
        mixed
    }
}
