//! When to stop a long run, told by short ones.

use heldout_core::{Error, Result};
use heldout_statistics::{LogLogFit, student_quantile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// When a pilot run began to memorise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Onset {
    /// Training images.
    pub n: u64,
    /// Steps at the onset, in the middle between the looks around it.
    pub step: u64,
    /// Steps between looks: the onset is known to half of them either way.
    pub resolution: u64,
}

/// When a run is expected to begin to memorise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StopPrediction {
    /// Training images of the run.
    pub n: u64,
    /// The expected onset in steps, `n exp(mean log(step / n))`.
    pub step: f64,
    /// Lower end of its 95 % prediction interval.
    pub lower: f64,
    /// Upper end.
    pub upper: f64,
    /// Steps by training image at the onset: geometric mean of the pilots.
    pub steps_by_image: f64,
    /// Standard deviation of the logarithm of that between pilots.
    pub spread: f64,
    /// Largest ratio of it between two pilots.
    pub disagreement: f64,
    /// Slope of log step over log n, free: 1 where the law holds.
    pub exponent: f64,
    /// Its standard error, from three pilots up.
    pub exponent_error: Option<f64>,
    /// What speaks against the prediction.
    pub warning: Option<String>,
}

/// Ratio of two pilots' steps by image beyond which they are not of one law.
const AGREE: f64 = 2.0;

/// The onset of memorisation in a run of `n` images, from pilots of other `n` under the same recipe: it grows in proportion to
/// `n` (Bonnaire et al. 2025; Favero et al. 2025).
///
/// `log(step / n)` of `k` pilots has mean `m` and standard deviation `s`; the prediction is `n exp(m)`, with
/// `exp(+-sqrt((q s)^2 (1 + 1/k) + r^2))` around it, `q` the 97.5 % quantile of Student's t with `k - 1` degrees of freedom
/// and `r` the root mean square of half a resolution over the step. The exponent is the least-squares slope.
///
/// Two pilots give a very wide interval: `q` is 12.7.
/// Law: a function of its arguments; pilots of exact proportion are met exactly.
pub fn predict_stop(onsets: &[Onset], n: u64) -> Result<StopPrediction> {
    check(onsets, n)?;
    let k = onsets.len() as f64;
    let log_n: Vec<f64> = onsets.iter().map(|o| (o.n as f64).ln()).collect();
    let ratios: Vec<f64> = onsets.iter().zip(&log_n).map(|(o, log_n)| (o.step as f64).ln() - log_n).collect();
    let m = mean(&ratios);
    let spread = (ratios.iter().map(|r| (r - m).powi(2)).sum::<f64>() / (k - 1.0)).sqrt();
    let squares: Vec<f64> = onsets.iter().map(|o| o.half_look().powi(2)).collect();
    let scatter = student_quantile(onsets.len() - 1) * spread;
    let half = (scatter.powi(2) * (1.0 + 1.0 / k) + mean(&squares)).sqrt();
    let (exponent, exponent_error) = exponent(onsets)?;
    let extreme = |pick: fn(f64, f64) -> f64| ratios.iter().copied().reduce(pick).unwrap_or(m);
    let disagreement = (extreme(f64::max) - extreme(f64::min)).exp();
    let step = (n as f64) * m.exp();
    let mut prediction = StopPrediction {
        n,
        step,
        lower: step * (-half).exp(),
        upper: step * half.exp(),
        steps_by_image: m.exp(),
        spread,
        disagreement,
        exponent,
        exponent_error,
        warning: None,
    };
    let width = log_n.iter().map(|x| (x - mean(&log_n)).powi(2)).sum::<f64>().sqrt();
    prediction.warning = warning(&prediction, onsets.len(), mean(&squares).sqrt() / width);
    Ok(prediction)
}

impl Onset {
    /// Half the distance of looks, as a share of the step.
    fn half_look(&self) -> f64 {
        self.resolution as f64 / (2.0 * self.step as f64)
    }
}

fn check(onsets: &[Onset], n: u64) -> Result<()> {
    if n == 0 {
        return Err(Error::config("n", "0: a run needs training images"));
    }
    for (i, onset) in onsets.iter().enumerate() {
        for (field, value) in [("n", onset.n), ("step", onset.step)] {
            if value == 0 {
                return Err(Error::config(format!("onsets.{i}.{field}"), "0: at least 1"));
            }
        }
        if onset.half_look() >= 1.0 {
            let reason = format!("{} around step {}: look more often", onset.resolution, onset.step);
            return Err(Error::config(format!("onsets.{i}.resolution"), reason));
        }
    }
    let sizes: BTreeSet<u64> = onsets.iter().map(|o| o.n).collect();
    if sizes.len() < 2 {
        let reason = format!("pilots of {} different n: at least 2 are needed to see the law", sizes.len());
        return Err(Error::config("onsets", reason));
    }
    Ok(())
}

/// `by_look` is what the looks alone make the exponent uncertain by.
fn warning(p: &StopPrediction, pilots: usize, by_look: f64) -> Option<String> {
    let mut against = Vec::new();
    if p.disagreement > AGREE {
        against.push(format!("steps by image differ {:.1}-fold between pilots", p.disagreement));
    }
    if let Some(error) = p.exponent_error {
        let half = ((student_quantile(pilots - 2) * error).powi(2) + by_look.powi(2)).sqrt();
        // What rounds to the last digits of a logarithm is no difference.
        if (p.exponent - 1.0).abs() > half + 1e-9 {
            against.push(format!(
                "the onset grows as n to the {:.2} +- {half:.2}, not in proportion",
                p.exponent
            ));
        }
    }
    (!against.is_empty()).then(|| against.join("; "))
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

/// Least-squares slope of log step over log n, and its standard error from three pilots up.
fn exponent(onsets: &[Onset]) -> Result<(f64, Option<f64>)> {
    let of = |f: fn(&Onset) -> u64| onsets.iter().map(|o| f(o) as f64).collect::<Vec<_>>();
    let (n, step) = (of(|o| o.n), of(|o| o.step));
    if let ([n1, n2], [step1, step2]) = (&n[..], &step[..]) {
        return Ok(((step2 / step1).ln() / (n2 / n1).ln(), None));
    }
    let fit = LogLogFit::new(&n, &step).map_err(|e| Error::config("onsets", e.to_string()))?;
    Ok((fit.slope, Some(fit.error)))
}
