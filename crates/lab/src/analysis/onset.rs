//! When samples become copies, and when they are good, over the number of training images.

use crate::record::Record;
use crate::result::ArmResult;
use anyhow::Result;
use heldout_core::Error;
use heldout_statistics::LogLogFit;
use heldout_train::{Event, Onset, predict_stop};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Onset of memorisation: the step at which the memorised fraction passes `threshold`, between looks by linear interpolation
/// (tau_mem of Bonnaire et al. 2025). Time to quality (tau_gen): the step at which the distance to held-out images falls to the
/// lowest value that every arm and seed reaches before its onset; copies are nearer to held-out images than bad samples are, so
/// that what comes later says nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnsetConfig {
    /// Memorised fraction, between 0 and 1.
    #[serde(default = "tenth")]
    pub threshold: f64,
}

fn tenth() -> f64 {
    0.1
}

/// One arm with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OnsetPoint {
    /// Its name.
    pub arm: String,
    /// Its seed.
    pub seed: u64,
    /// Training images.
    pub n: usize,
    /// Step of the onset; none if it was not reached.
    pub memorised: Option<f64>,
    /// Step at which quality was reached.
    pub good: Option<f64>,
    /// Steps between looks.
    pub resolution: u64,
    /// Highest floor of the memorised fraction.
    pub floor: f64,
}

/// How far the curves of different `n` lie apart: the mean over the axis of the largest minus the smallest memorised fraction,
/// each `n` averaged over its seeds, where any is above the threshold and any below one minus it. No unit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Collapse {
    /// Over steps.
    pub over_steps: f64,
    /// Over steps by training image.
    pub over_steps_by_image: f64,
}

/// The onset of the largest `n` beside what an eighth and a fourth of its images predict.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct StopCheck {
    /// Training images.
    pub n: usize,
    /// Those of the pilots.
    pub pilots: Vec<usize>,
    /// Predicted step.
    pub predicted: f64,
    /// Its 95 % prediction interval.
    pub interval: [f64; 2],
    /// Where the seeds of the largest `n` have it.
    pub measured: Vec<f64>,
}

/// All points, and the laws through them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OnsetAnalysis {
    /// As configured.
    pub config: OnsetConfig,
    /// The distance to held-out images that counts as good.
    pub quality: f64,
    /// One per arm and seed.
    pub points: Vec<OnsetPoint>,
    /// Onset over `n`; none where fewer than three points are known.
    pub memorised: Option<LogLogFit>,
    /// Time to quality over `n`.
    pub good: Option<LogLogFit>,
    /// None where the curves have no place in common.
    pub collapse: Option<Collapse>,
    /// None without an eighth and a fourth of the largest `n` among the arms.
    pub stop: Option<StopCheck>,
}

/// Steps and values.
type Curve = Vec<(f64, f64)>;

impl OnsetConfig {
    pub(super) fn check(&self) -> heldout_core::Result<()> {
        let value = self.threshold;
        let within = value > 0.0 && value < 1.0;
        let reason = || format!("{value} is not between 0 and 1");
        if within { Ok(()) } else { Err(Error::config("threshold", reason())) }
    }

    pub(super) fn run(&self, arms: &[ArmResult], records: &[Record]) -> Result<OnsetAnalysis> {
        let mut points = Vec::new();
        let mut qualities: Vec<Curve> = Vec::new();
        let mut curves: BTreeMap<usize, Vec<Curve>> = BTreeMap::new();
        for arm in arms {
            let ours = || records.iter().filter(|r| r.arm == arm.name && r.seed == arm.seed);
            let copies: Vec<(f64, f64, f64)> = ours()
                .filter_map(|r| match &r.event {
                    Event::Metric { metric, measurement: m, .. } if metric == "f_mem" => {
                        Some((r.step as f64, m.model.value, m.floor.value))
                    }
                    _ => None,
                })
                .collect();
            let curve: Curve = copies.iter().map(|(step, value, _)| (*step, *value)).collect();
            let quality: Curve = ours()
                .filter_map(|r| match &r.event {
                    Event::Quality { value, .. } => Some((r.step as f64, *value)),
                    _ => None,
                })
                .collect();
            points.push(OnsetPoint {
                arm: arm.name.clone(),
                seed: arm.seed,
                n: arm.n_train,
                memorised: rises_over(&curve, self.threshold),
                good: None,
                resolution: curve.windows(2).map(|w| w[1].0 - w[0].0).fold(0.0, f64::max) as u64,
                floor: copies.iter().map(|c| c.2).fold(0.0, f64::max),
            });
            curves.entry(arm.n_train).or_default().push(curve);
            qualities.push(quality);
        }
        let before = |(curve, p): (&Curve, &OnsetPoint)| {
            let early = curve.iter().filter(|(step, _)| *step <= p.memorised.unwrap_or(f64::INFINITY));
            early.map(|c| c.1).fold(f64::INFINITY, f64::min)
        };
        let quality = qualities.iter().zip(&points).map(before).fold(f64::NEG_INFINITY, f64::max);
        for (point, curve) in points.iter_mut().zip(&qualities) {
            point.good = falls_to(curve, quality);
        }
        let fit = |of: fn(&OnsetPoint) -> Option<f64>| {
            let known: (Vec<f64>, Vec<f64>) =
                points.iter().filter_map(|p| Some((p.n as f64, of(p)?))).unzip();
            LogLogFit::new(&known.0, &known.1).ok()
        };
        Ok(OnsetAnalysis {
            config: self.clone(),
            quality,
            memorised: fit(|p| p.memorised),
            good: fit(|p| p.good),
            collapse: collapse(&curves, self.threshold),
            stop: stop_check(&points)?,
            points,
        })
    }
}

/// Where a curve first reaches a value upwards, between its points by linear interpolation.
fn rises_over(curve: &[(f64, f64)], threshold: f64) -> Option<f64> {
    let above = curve.iter().position(|(_, value)| *value >= threshold)?;
    let (step, value) = curve[above];
    Some(match above.checked_sub(1).map(|i| curve[i]) {
        Some((before, low)) => before + (step - before) * (threshold - low) / (value - low),
        None => step,
    })
}

/// The same downwards.
fn falls_to(curve: &[(f64, f64)], value: f64) -> Option<f64> {
    let mirrored: Curve = curve.iter().map(|(step, y)| (*step, -y)).collect();
    rises_over(&mirrored, -value)
}

/// A value of a curve between its points; none beyond its ends.
fn at(curve: &[(f64, f64)], x: f64) -> Option<f64> {
    let after = curve.iter().position(|(step, _)| *step >= x)?;
    let (right, high) = curve[after];
    match after.checked_sub(1).map(|i| curve[i]) {
        None => (right == x).then_some(high),
        Some((left, low)) => Some(low + (high - low) * (x - left) / (right - left)),
    }
}

/// Places on an axis at which curves are compared.
const PLACES: usize = 200;

fn collapse(curves: &BTreeMap<usize, Vec<Curve>>, threshold: f64) -> Option<Collapse> {
    let spread = |by_image: bool| {
        let scaled = |n: usize, curve: &Curve| -> Curve {
            let unit = if by_image { n as f64 } else { 1.0 };
            curve.iter().map(|(step, value)| (step / unit, *value)).collect()
        };
        let all: Vec<Vec<Curve>> =
            curves.iter().map(|(n, seeds)| seeds.iter().map(|c| scaled(*n, c)).collect()).collect();
        let ends =
            |pick: fn(&Curve) -> Option<&(f64, f64)>| all.iter().flatten().filter_map(pick).map(|p| p.0);
        // Every curve has a value here.
        let low = ends(|c| c.first()).fold(0.0, f64::max);
        let high = ends(|c| c.last()).fold(f64::INFINITY, f64::min);
        if !(high.is_finite() && low < high) || all.len() < 2 {
            return None;
        }
        let mut ranges = Vec::new();
        for i in 0..PLACES {
            let x = low + (high - low) * i as f64 / (PLACES - 1) as f64;
            let means = all.iter().filter_map(|seeds| {
                let values: Vec<f64> = seeds.iter().filter_map(|c| at(c, x)).collect();
                (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
            });
            let (least, most) = means.fold((f64::INFINITY, 0.0f64), |(l, m), v| (l.min(v), m.max(v)));
            if most > threshold && least < 1.0 - threshold {
                ranges.push(most - least);
            }
        }
        (!ranges.is_empty()).then(|| ranges.iter().sum::<f64>() / ranges.len() as f64)
    };
    Some(Collapse { over_steps: spread(false)?, over_steps_by_image: spread(true)? })
}

fn stop_check(points: &[OnsetPoint]) -> Result<Option<StopCheck>> {
    let Some(n) = points.iter().map(|p| p.n).max() else { return Ok(None) };
    let pilots = vec![n / 8, n / 4];
    let of_pilots = points.iter().filter(|p| pilots.contains(&p.n));
    let onsets: Vec<Onset> = of_pilots
        .filter_map(|p| {
            Some(Onset { n: p.n as u64, step: p.memorised?.round() as u64, resolution: p.resolution })
        })
        .collect();
    if !pilots.iter().all(|n| onsets.iter().any(|o| o.n == *n as u64)) {
        return Ok(None);
    }
    let found = predict_stop(&onsets, n as u64)?;
    let measured = points.iter().filter(|p| p.n == n).filter_map(|p| p.memorised).collect();
    Ok(Some(StopCheck { n, pilots, predicted: found.step, interval: [found.lower, found.upper], measured }))
}

impl OnsetAnalysis {
    pub(super) fn answer(&self) -> String {
        let law = |what: &str, fit: &Option<LogLogFit>| match fit {
            Some(f) => {
                let [low, high] = [f.interval.lower, f.interval.upper];
                format!("{what} grows as n^{:.2} (95 %: {low:.2} to {high:.2}, {} points)", f.slope, f.n)
            }
            None => format!("{what} is not known: fewer than three arms reached it"),
        };
        let mut said = vec![law("The onset of memorisation", &self.memorised)];
        if let Some(f) = &self.memorised {
            let holds = f.interval.lower <= 1.0 && 1.0 <= f.interval.upper;
            let does = if holds {
                "contains 1: in proportion to n, as expected"
            } else {
                "does not contain 1: not in proportion to n here"
            };
            said.push(format!("which {does}"));
        }
        let mut text = said.join(", ") + ". ";
        text += &(law("The time to good samples", &self.good) + ". ");
        if let Some(c) = &self.collapse {
            let [steps, scaled] = [c.over_steps, c.over_steps_by_image];
            let does = if scaled < 0.5 * steps { "collapse" } else { "do not collapse" };
            text += &format!(
                "Curves of f_mem lie {steps:.2} apart over steps and {scaled:.2} over steps by image: they {does}. "
            );
        }
        if let Some(s) = &self.stop {
            let measured: Vec<String> = s.measured.iter().map(|m| format!("{m:.0}")).collect();
            let measured = if measured.is_empty() { "not reached".to_owned() } else { measured.join(", ") };
            text += &format!(
                "From {} and {} images the onset for {} was predicted at step {:.0} (95 %: {:.0} to {:.0}); it is at {measured}. ",
                s.pilots[0], s.pilots[1], s.n, s.predicted, s.interval[0], s.interval[1]
            );
        }
        let late: Vec<String> = self
            .points
            .iter()
            .filter(|p| p.memorised.is_none())
            .map(|p| format!("{} seed {}", p.arm, p.seed))
            .collect();
        if !late.is_empty() {
            text += &format!("Not reached, and left out: {}. ", late.join(", "));
        }
        text.trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Curves that are one curve over steps by image, with a quality that falls alike for all.
    fn lawful(exponent: f64) -> Vec<(OnsetPoint, Curve, Curve)> {
        let make = |n: usize| {
            let onset = 20.0 * (n as f64).powf(exponent);
            let steps = (1..=60).map(|i| f64::from(i) * onset / 20.0);
            let copies: Curve =
                steps.clone().map(|s| (s, 1.0 / (1.0 + (9.0 * (onset / s).powi(4))))).collect();
            let quality: Curve = steps.map(|s| (s, 0.5 + (-s / 30.0).exp())).collect();
            let point = OnsetPoint {
                arm: format!("n{n}"),
                seed: 0,
                n,
                memorised: rises_over(&copies, 0.1),
                good: falls_to(&quality, 0.6),
                resolution: (onset / 20.0) as u64,
                floor: 0.0,
            };
            (point, copies, quality)
        };
        [16, 32, 64, 128].map(make).into()
    }

    #[test]
    fn exponents_and_collapse_are_those_of_the_curves() {
        for (exponent, collapses) in [(1.0, true), (0.4, false)] {
            let all = lawful(exponent);
            let points: Vec<OnsetPoint> = all.iter().map(|(p, ..)| p.clone()).collect();
            let x: Vec<f64> = points.iter().map(|p| p.n as f64).collect();
            let y: Vec<f64> = points.iter().map(|p| p.memorised.unwrap()).collect();
            let fit = LogLogFit::new(&x, &y).unwrap();
            assert!((fit.slope - exponent).abs() < 1e-3, "{fit:?}");
            for p in &points {
                let expected = 20.0 * (p.n as f64).powf(exponent);
                assert!((p.memorised.unwrap() / expected - 1.0).abs() < 0.01, "{p:?}");
            }
            let curves: BTreeMap<usize, Vec<Curve>> =
                all.into_iter().map(|(p, c, _)| (p.n, vec![c])).collect();
            let found = collapse(&curves, 0.1).unwrap();
            assert_eq!(found.over_steps_by_image < 0.1 * found.over_steps, collapses, "{found:?}");
            let stop = stop_check(&points).unwrap().unwrap();
            assert_eq!((stop.n, stop.pilots), (128, vec![16, 32]));
            assert_eq!((stop.predicted / stop.measured[0] - 1.0).abs() < 0.02, collapses);
        }
    }

    #[test]
    fn crossings_lie_between_looks_or_are_none() {
        let curve = [(10.0, 0.0), (20.0, 0.0), (30.0, 0.4)];
        assert_eq!(rises_over(&curve, 0.1), Some(22.5));
        assert_eq!(rises_over(&curve, 0.5), None);
        assert_eq!(rises_over(&[(10.0, 0.7)], 0.5), Some(10.0));
        assert_eq!(falls_to(&[(10.0, 1.0), (20.0, 0.5)], 0.75), Some(15.0));
        assert_eq!(at(&curve, 25.0), Some(0.2));
        assert_eq!((at(&curve, 5.0), at(&curve, 31.0)), (None, None));
        assert!(collapse(&BTreeMap::new(), 0.1).is_none());
    }
}
