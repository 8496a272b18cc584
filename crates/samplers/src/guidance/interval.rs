//! Guidance at some noise levels only.

use heldout_core::{Cond, Denoiser, NoiseSchedule, Prepared, like};
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
        let inside = self.inside(t);
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

    fn prepare<'a>(&'a self, t: &Tensor, kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        Some(Box::new(PreparedInterval {
            guided: self.guided.prepare(t, kind)?,
            plain: self.plain.prepare(t, kind)?,
            inside: Vec::try_from(self.inside(t)).ok()?,
        }))
    }
}

impl<G: Denoiser, P> LimitedInterval<G, P> {
    /// Whether each time is guided.
    fn inside(&self, t: &Tensor) -> Tensor {
        let m = self.guided.schedule().marginal(t);
        let ratio = &m.sigma / &m.alpha;
        ratio.ge(self.sigma_min).logical_and(&ratio.le(self.sigma_max))
    }
}

struct PreparedInterval<'a> {
    guided: Box<dyn Prepared + 'a>,
    plain: Box<dyn Prepared + 'a>,
    inside: Vec<bool>,
}

impl Prepared for PreparedInterval<'_> {
    fn denoise_with_variance(&self, i: usize, x_t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let model = if self.inside[i] { &self.guided } else { &self.plain };
        model.denoise_with_variance(i, x_t, cond)
    }
}
