//! Denoisers around denoisers.

mod autoguidance;
mod clamped;
mod classifier;
mod classifier_free;
mod composition;
mod embedding;
mod interval;
mod random_affine;
mod score;

pub use autoguidance::Autoguidance;
pub use clamped::Clamped;
pub use classifier::{ClassifierGuidance, LogProbability};
pub use classifier_free::{ClassifierFree, Rescale};
pub use composition::{And, Or, Weighted};
pub use embedding::{EmbeddingDistance, EmbeddingScore};
pub use interval::LimitedInterval;
pub use random_affine::RandomAffine;
pub use score::{ScoreGuidance, XStartScore};

use heldout_core::{Cond, Denoiser, Marginal, like};
use tch::{Kind, Tensor};

/// Estimates under several conditions, in one pass where they can be stacked, and the variance under the first.
fn under(inner: &dyn Denoiser, x_t: &Tensor, t: &Tensor, conds: &[&Cond]) -> (Vec<Tensor>, Option<Tensor>) {
    let rows = x_t.size()[0];
    let conds: Vec<Cond> = conds.iter().map(|c| c.expand(rows)).collect();
    if let Some(all) = Cond::cat(&conds) {
        let times = |x: &Tensor| Tensor::cat(&vec![x; conds.len()], 0);
        let (hat, variance) = inner.denoise_with_variance(&times(x_t), &times(t), &all);
        return (hat.split(rows, 0), variance.map(|v| v.narrow(0, 0, rows)));
    }
    let mut first = None;
    let hats = conds.iter().enumerate().map(|(i, cond)| {
        let (hat, variance) = inner.denoise_with_variance(x_t, t, cond);
        if i == 0 {
            first = variance;
        }
        hat
    });
    (hats.collect(), first)
}

/// `d sum(f(x)) / d x`, also where gradients are off.
fn gradient(x: &Tensor, f: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    tch::with_grad(|| {
        let x = x.detach().set_requires_grad(true);
        Tensor::run_backward(&[f(&x).sum(Kind::Float)], &[&x], false, false).remove(0)
    })
}

/// What a gradient `g` of a log density by `x_t` adds to `x_start_hat`: `sigma^2 / alpha * g` (Tweedie's formula); nothing in
/// pure noise, which says nothing of the data.
fn shift(m: &Marginal, g: &Tensor) -> Tensor {
    let factor = m.sigma.square() / &m.alpha;
    like(&factor.zeros_like().where_self(&m.alpha.le(0.0), &factor), g) * g
}
