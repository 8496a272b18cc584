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
pub use classifier_free::{ClassifierFree, GuidedChannels, Rescale};
pub use composition::{And, Or, Weighted};
pub use embedding::{EmbeddingDistance, EmbeddingScore};
pub use interval::LimitedInterval;
pub use random_affine::RandomAffine;
pub use score::{ScoreGuidance, XStartScore};

use heldout_core::{Cond, Denoiser, Marginal, like};
use tch::{Kind, Tensor};

/// Estimates under several conditions, in one pass where they can be stacked, and the variance under the first. `denoise` is
/// given states, of how many batches they are made, and conditions.
fn under(
    x_t: &Tensor,
    conds: &[&Cond],
    denoise: impl Fn(&Tensor, usize, &Cond) -> (Tensor, Option<Tensor>),
) -> (Vec<Tensor>, Option<Tensor>) {
    let rows = x_t.size()[0];
    let conds: Vec<Cond> = conds.iter().map(|c| c.expand(rows)).collect();
    if let Some(all) = Cond::cat(&conds) {
        let (hat, variance) = denoise(&repeated(x_t, conds.len()), conds.len(), &all);
        return (hat.split(rows, 0), variance.map(|v| v.narrow(0, 0, rows)));
    }
    let (hats, variances): (Vec<_>, Vec<_>) = conds.iter().map(|cond| denoise(x_t, 1, cond)).unzip();
    (hats, variances.into_iter().next().flatten())
}

/// The same for a denoiser and times.
fn under_at(
    inner: &dyn Denoiser,
    x_t: &Tensor,
    t: &Tensor,
    conds: &[&Cond],
) -> (Vec<Tensor>, Option<Tensor>) {
    under(x_t, conds, |x, copies, cond| inner.denoise_with_variance(x, &repeated(t, copies), cond))
}

fn repeated(x: &Tensor, copies: usize) -> Tensor {
    Tensor::cat(&vec![x; copies], 0)
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
