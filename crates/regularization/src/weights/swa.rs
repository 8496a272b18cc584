//! Stochastic weight averaging.

use heldout_core::{Clock, Curve, CurveConfig, Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor, nn};

/// Settings of stochastic weight averaging.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SwaConfig {
    /// Share of the run at which averaging begins; 0.75 and less in the paper.
    pub start: f64,
    /// Steps between two weights that are taken in: an epoch in the paper.
    pub every: u64,
    /// The learning rate that the plan ends with; the recipe's own plan if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// As in records and checkpoints; `swa` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl SwaConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.start) {
            return Err(Error::config("start", format!("{} is not a share of the run below 1", self.start)));
        }
        if self.every == 0 {
            return Err(Error::config("every", "0: at least 1 is needed"));
        }
        self.rate.map_or(Ok(()), |rate| CurveConfig::Constant(rate).check("rate", 0.0, f64::INFINITY))
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "swa".to_owned())
    }

    /// For [`Averaged`](crate::Averaged).
    pub(crate) fn decay(&self) -> SwaDecay {
        SwaDecay { start: self.start, every: self.every }
    }
}

/// Decays that make the plain mean of the weights after every `every`th step from `start` on, and the weights themselves
/// before; Izmailov et al. 2018, Algorithm 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SwaDecay {
    /// Share of the run.
    pub start: f64,
    /// Steps.
    pub every: u64,
}

impl Curve for SwaDecay {
    fn at(&self, clock: Clock) -> f64 {
        let start = (self.start * clock.total as f64).ceil() as u64;
        match clock.step.checked_sub(start) {
            None => 0.0,
            Some(since) if since.is_multiple_of(self.every) => {
                let n = (since / self.every) as f64;
                n / (n + 1.0)
            }
            Some(_) => 1.0,
        }
    }
}

/// `inner` until half of `start`, in a straight line to `rate` until 0.9 of it, and `rate` from then on; Izmailov et al.
/// 2018, section 3.1 and appendix.
#[derive(Debug, Clone)]
pub struct SwaRate<C> {
    /// The plan without averaging.
    pub inner: C,
    /// Share of the run at which averaging begins.
    pub start: f64,
    /// The learning rate while averaging.
    pub rate: f64,
}

impl<C: Curve> Curve for SwaRate<C> {
    fn at(&self, clock: Clock) -> f64 {
        let way = clock.progress() / self.start.max(f64::MIN_POSITIVE);
        let share = ((way - 0.5) / 0.4).clamp(0.0, 1.0);
        if share == 0.0 {
            self.inner.at(clock)
        } else {
            self.inner.at(clock) * (1.0 - share) + self.rate * share
        }
    }
}

/// Running means and variances of batch norms, to be measured anew for averaged weights; Izmailov et al. 2018, section 3.2.
///
/// They belong to the weights that were live, not to their average.
#[derive(Debug)]
pub struct BatchStatistics {
    /// Each `[C]`.
    tensors: Vec<Tensor>,
}

impl BatchStatistics {
    /// Every `running_mean` and `running_var` of a store.
    pub fn of(vars: &nn::VarStore) -> Self {
        let is = |name: &str| name.ends_with("running_mean") || name.ends_with("running_var");
        let mut named: Vec<_> = vars.variables().into_iter().filter(|(name, _)| is(name)).collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b)); // `variables` is a HashMap: no order of its own
        Self { tensors: named.into_iter().map(|(_, t)| t).collect() }
    }

    /// Whether the network has none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// The plain mean over `passes` forward passes in training mode, one call of `pass` each; `momentum` is that of the
    /// network's norms, 0.1 unless it was set.
    pub fn refresh(
        &self,
        momentum: f64,
        passes: usize,
        mut pass: impl FnMut(usize) -> Result<()>,
    ) -> Result<()> {
        if passes == 0 || !(momentum > 0.0 && momentum <= 1.0) {
            let reason =
                format!("{momentum} and {passes} passes: a momentum in (0, 1], and one pass at least");
            return Err(Error::config("momentum", reason));
        }
        if self.is_empty() {
            return Ok(());
        }
        let mut sums: Vec<Tensor> =
            self.tensors.iter().map(|t| t.detach().zeros_like().to_kind(Kind::Double)).collect();
        for number in 0..passes {
            tch::no_grad(|| self.tensors.iter().for_each(|t| drop(t.shallow_clone().zero_())));
            pass(number)?;
            // From 0, one pass leaves momentum times what it saw.
            sums.iter_mut().zip(&self.tensors).for_each(|(sum, t)| *sum += t.detach());
        }
        let write =
            |(sum, t): (&Tensor, &Tensor)| t.shallow_clone().copy_(&(sum / (momentum * passes as f64)));
        tch::no_grad(|| sums.iter().zip(&self.tensors).for_each(write));
        Ok(())
    }
}
