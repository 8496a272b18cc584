//! Guidance at some noise levels only.

use heldout_core::{Cond, Denoiser, NoiseSchedule, like};
use tch::{Kind, Tensor};

/// `guided` where `sigma / alpha` lies in an interval, `plain` elsewhere; Kynkäänniemi et al. 2024, Eq. 5.
///
/// Only the one that is needed is evaluated. Both have the same schedule.
#[derive(Debug)]
pub struct LimitedInterval<G, P> {
    /// The model with its guidance.
    pub guided: G,
    /// The model without it.
    pub plain: P,
    /// The least `sigma / alpha` that is guided; 0.28 for ImageNet-512 in the paper.
    pub sigma_min: f64,
    /// The greatest; 2.9 there.
    pub sigma_max: f64,
}

impl<G: Denoiser, P: Denoiser> Denoiser for LimitedInterval<G, P> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let m = self.schedule().marginal(t);
        let ratio = &m.sigma / &m.alpha;
        let inside = ratio.ge(self.sigma_min).logical_and(&ratio.le(self.sigma_max));
        match inside.sum(Kind::Int64).int64_value(&[]) {
            0 => self.plain.denoise_with_variance(x_t, t, cond),
            n if n == x_t.size()[0] => self.guided.denoise_with_variance(x_t, t, cond),
            _ => {
                let mask = like(&inside, x_t).to_kind(Kind::Bool);
                let (guided, variance) = self.guided.denoise_with_variance(x_t, t, cond);
                let (plain, other) = self.plain.denoise_with_variance(x_t, t, cond);
                let variance = variance.zip(other).map(|(a, b)| a.where_self(&mask, &b));
                (guided.where_self(&mask, &plain), variance)
            }
        }
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.guided.schedule()
    }
}
