//! How far conditions are used, and how far adapters are in each other's way.

use heldout_core::{Adapter, Backbone, Cond, Denoiser, Error, Input, Mean, Residuals, Result, like, stream};
use std::ops::Range;
use tch::{Kind, Tensor};

/// Norm of each row, `[B, ..] -> [B]`, f64.
fn norms(x: &Tensor) -> Tensor {
    x.to_kind(Kind::Double).flatten(1, -1).square().sum_dim_intlist(1i64, false, Kind::Double).sqrt()
}

/// `a / b`, and 0 where both are 0, `[B]`.
fn ratio(a: &Tensor, b: &Tensor) -> Tensor {
    (a / b).masked_fill(&a.eq(0.0).logical_and(&b.eq(0.0)), 0.0)
}

/// What happens to a condition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is left out; channels of a hint become 0.
    Dropped,
    /// Every example gets that of another.
    Swapped,
}

/// A condition, or some of its channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// As in [`Cond::fields`].
    pub field: String,
    /// Of a hint that belongs to several adapters.
    pub channels: Option<Range<i64>>,
}

impl Condition {
    /// The conditions with this one changed; `shift` says whose it becomes.
    fn changed(&self, cond: &Cond, change: Change, shift: i64) -> Result<Cond> {
        let Some((_, Some(old))) = cond.fields().into_iter().find(|(name, _)| *name == self.field) else {
            return Err(Error::config(&*self.field, "is not among the conditions that were given"));
        };
        let new = match (&self.channels, change) {
            (None, Change::Dropped) => None,
            (None, Change::Swapped) => Some(old.roll([shift], [0])),
            (Some(Range { start, end }), _) => {
                let size = old.size();
                if size.len() < 2 || *start < 0 || end <= start || *end > size[1] {
                    let reason = format!("has no channels {start} to {end}: it is of shape {size:?}");
                    return Err(Error::config(&*self.field, reason));
                }
                let part = old.narrow(1, *start, end - start);
                let part = match change {
                    Change::Dropped => part.zeros_like(),
                    Change::Swapped => part.roll([shift], [0]),
                };
                let rest = old.narrow(1, *end, size[1] - end);
                Some(Tensor::cat(&[old.narrow(1, 0, *start), part, rest], 1))
            }
        };
        let mut fields = cond.fields().into_iter();
        Ok(Cond::from_fields(|name| match fields.next() {
            Some((_, t)) if name != self.field => t.as_ref().map(Tensor::shallow_clone),
            _ => new.as_ref().map(Tensor::shallow_clone),
        }))
    }
}

/// How far the estimate of clean data changes with a condition, at one time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sensitivity {
    /// The time.
    pub t: f64,
    /// `|f(c') - f(c)| / |f(c)|` over the examples, where `c'` is changed: 0 for a condition that is not used.
    pub relative: Mean,
}

/// How far a model uses a condition, at each of `times`: `x_start` `[B, C, ..]`, images that go with `cond`. Noise and partners are
/// a function of the seed.
///
/// # Errors
/// A condition that is not there; one example alone, which has none to swap with.
pub fn condition_sensitivity(
    model: &dyn Denoiser,
    x_start: &Tensor,
    cond: &Cond,
    (condition, change): (&Condition, Change),
    times: &[f64],
    seed: u64,
) -> Result<Vec<Sensitivity>> {
    let rows = x_start.size()[0];
    if rows < 2 {
        return Err(Error::config("batch", format!("{rows} examples: at least 2 are needed")));
    }
    let shift = 1 + (stream(seed, "condition partner", 0, 0) % (rows as u64 - 1)) as i64;
    let changed = condition.changed(cond, change, shift)?;
    let at = |(i, t): (usize, &f64)| {
        tch::manual_seed(stream(seed, "condition noise", i as u64, 0) as i64);
        let noise = x_start.randn_like();
        let level = Tensor::full([rows], *t, (Kind::Double, x_start.device()));
        let m = model.schedule().marginal(&level);
        let x_t = like(&m.alpha, x_start) * x_start + like(&m.sigma, x_start) * noise;
        let (with, without) = (model.denoise(&x_t, &level, cond), model.denoise(&x_t, &level, &changed));
        let relative = Mean::of(&ratio(&norms(&(without - &with)), &norms(&with)));
        Sensitivity { t: *t, relative }
    };
    Ok(tch::no_grad(|| times.iter().enumerate().map(at).collect()))
}

/// How far two adapters are in each other's way on a backbone: `|f(a, b) - f(a) - f(b) + f()|` relative to
/// `|f(a) - f()| + |f(b) - f()|`, over the examples of `input`; 0 where their effects add up. The channels of `a`'s hint come
/// first.
///
/// # Errors
/// A hint of another shape than the two take.
pub fn interference(backbone: &dyn Backbone, [a, b]: [&dyn Adapter; 2], input: Input<'_>) -> Result<Mean> {
    let both = [a, b];
    crate::several::check_each(both.into_iter(), input)?;
    if input.cond.hint.is_none() {
        return Err(Error::config("hint", "is missing: without one no adapter adds anything"));
    }
    Ok(tch::no_grad(|| {
        let conds: Vec<Cond> = crate::several::own_hints(both.into_iter(), input.cond).collect();
        let of = |adapter: &dyn Adapter, cond| adapter.residuals(Input { cond, ..input });
        let (mut a, mut b) = (of(a, &conds[0]), of(b, &conds[1]));
        let neither = backbone.forward(input, &mut ());
        let with = |residuals: &mut Residuals| backbone.forward(input, residuals) - &neither;
        let (of_a, of_b) = (with(&mut a), with(&mut b));
        let of_both = backbone.forward(input, &mut (&mut a, &mut b)) - &neither;
        let apart = norms(&of_a) + norms(&of_b);
        Mean::of(&ratio(&norms(&(of_both - of_a - of_b)), &apart))
    }))
}
