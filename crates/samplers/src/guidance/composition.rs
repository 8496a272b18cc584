//! Several conditions at once.

use super::{under, under_at};
use crate::LogProbability;
use heldout_core::{Cond, Denoiser, NoiseSchedule, Prepared, combine, like};
use tch::{Kind, Tensor};

/// A condition and its weight.
#[derive(Debug)]
pub struct Weighted {
    /// The condition, of one row or of as many as there are samples.
    pub cond: Cond,
    /// In [`And`] 1 for AND, -1 for NOT, or more; in [`Or`] the share of samples.
    pub weight: f64,
}

/// All conditions together, those with negative weight not: `base + sum_i weight_i (hat_i - base)`; Liu et al. 2022
/// (composable diffusion), Eq. 11 and 15. The condition that the sampler gives is the base, usually the null condition.
///
/// At every time it is the denoiser of the product of the *noisy* densities, `p(x_t) prod_i (p(x_t | c_i) / p(x_t))^w_i`.
/// That becomes the product of the conditions as noise vanishes; on the way there it is not the diffused product (Du et al.
/// 2023, section 4), so that samples are near it, not of it.
#[derive(Debug)]
pub struct And<D> {
    /// The model.
    pub inner: D,
    /// What must hold, and what must not.
    pub terms: Vec<Weighted>,
}

impl<D: Denoiser> Denoiser for And<D> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    /// The variance is that of the base.
    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let (hats, variance) = under_at(&self.inner, x_t, t, &self.conds(cond));
        (self.together(&hats), variance)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }

    fn prepare<'a>(&'a self, t: &Tensor, kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        Some(Box::new(PreparedAnd { and: self, inner: self.inner.prepare(t, kind)? }))
    }
}

impl<D> And<D> {
    fn conds<'a>(&'a self, base: &'a Cond) -> Vec<&'a Cond> {
        std::iter::once(base).chain(self.terms.iter().map(|w| &w.cond)).collect()
    }

    /// From the estimates of the base and of the terms.
    fn together(&self, hats: &[Tensor]) -> Tensor {
        let base = 1.0 - self.terms.iter().map(|w| w.weight).sum::<f64>();
        let weights = std::iter::once(base).chain(self.terms.iter().map(|w| w.weight));
        combine(weights.zip(hats))
    }
}

struct PreparedAnd<'a, D> {
    and: &'a And<D>,
    inner: Box<dyn Prepared + 'a>,
}

impl<D> Prepared for PreparedAnd<'_, D> {
    fn denoise_with_variance(&self, i: usize, x_t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let at = |x: &Tensor, _, cond: &Cond| self.inner.denoise_with_variance(i, x, cond);
        let (hats, variance) = under(x_t, &self.and.conds(cond), at);
        (self.and.together(&hats), variance)
    }
}

/// Any of the conditions: the denoiser of the mixture `sum_i weight_i p(x | c_i)`, which is the mean of their estimates by the
/// posterior probability of each given `x_t`; Bishop 2006, Eq. 2.192.
///
/// The probabilities come from a classifier of noisy data by Bayes' rule, for conditions that were equally frequent where
/// it was trained. The condition that the sampler gives is not used.
#[derive(Debug)]
pub struct Or<D, C> {
    /// The model.
    pub inner: D,
    /// The conditions and their shares.
    pub terms: Vec<Weighted>,
    /// `log p(c_i | x_t)`.
    pub classifier: C,
}

impl<D: Denoiser, C: LogProbability> Denoiser for Or<D, C> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let conds: Vec<&Cond> = self.terms.iter().map(|w| &w.cond).collect();
        let hats = under_at(&self.inner, x_t, t, &conds).0;
        let rows = x_t.size()[0];
        let logs = self.terms.iter().map(|w| {
            self.classifier.log_probability(x_t, t, &w.cond.expand(rows)).to_kind(Kind::Double)
                + w.weight.ln()
        });
        let share = Tensor::stack(&logs.collect::<Vec<_>>(), 0).softmax(0, Kind::Double);
        let terms = hats.iter().enumerate().map(|(i, hat)| like(&share.get(i as i64), hat) * hat);
        terms.reduce(|a, b| a + b).unwrap_or_else(|| x_t.zeros_like())
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }
}
