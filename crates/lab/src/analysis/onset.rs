//! When samples become copies, and when they are good, over the number of training images.

use crate::record::Record;
use crate::result::ArmResult;
use anyhow::Result;
use heldout_core::Error;
use heldout_statistics::{Interval, LogLogFit};
use heldout_train::{Event, Onset, predict_stop};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

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
    /// Whether the first look found it good already: it may have been so for long.
    #[serde(default)]
    pub good_at_first_look: bool,
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
    /// What speaks against the prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A power of `n`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PowerLaw {
    /// Through all points.
    pub fit: LogLogFit,
    /// The exponents of single seeds, of those with at least three points.
    pub exponents: Vec<f64>,
    /// Their mean and its Student-t 95 % interval, since points of one seed share its luck; those of `fit` where one seed alone
    /// has an exponent.
    pub exponent: f64,
    /// See `exponent`.
    pub interval: Interval,
}

/// All points, and the laws through them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OnsetAnalysis {
    /// As configured.
    pub config: OnsetConfig,
    /// The distance to held-out images that counts as good; none without results.
    pub quality: Option<f64>,
    /// One per arm and seed.
    pub points: Vec<OnsetPoint>,
    /// Onset over `n`; none where fewer than three points are known.
    pub memorised: Option<PowerLaw>,
    /// Time to quality over `n`, of those that the first look did not find good.
    pub good: Option<PowerLaw>,
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
                good_at_first_look: false,
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
        let quality = Some(quality).filter(|quality| quality.is_finite());
        for (point, curve) in points.iter_mut().zip(&qualities) {
            point.good = quality.and_then(|quality| falls_to(curve, quality));
            point.good_at_first_look = point.good.is_some() && point.good == curve.first().map(|look| look.0);
        }
        Ok(OnsetAnalysis {
            config: self.clone(),
            quality,
            memorised: PowerLaw::of(&points, |p| p.memorised),
            good: PowerLaw::of(&points, |p| p.good.filter(|_| !p.good_at_first_look)),
            collapse: collapse(&curves, self.threshold),
            stop: stop_check(&points)?,
            points,
        })
    }
}

impl PowerLaw {
    /// None of fewer than three points.
    fn of(points: &[OnsetPoint], value: impl Fn(&OnsetPoint) -> Option<f64>) -> Option<Self> {
        let fit = |of: &dyn Fn(&OnsetPoint) -> bool| {
            let known = points.iter().filter(|p| of(p)).filter_map(|p| Some((p.n as f64, value(p)?)));
            let (n, values): (Vec<f64>, Vec<f64>) = known.unzip();
            LogLogFit::new(&n, &values).ok()
        };
        let all = fit(&|_| true)?;
        let seeds: BTreeSet<u64> = points.iter().map(|p| p.seed).collect();
        let exponents: Vec<f64> =
            seeds.into_iter().filter_map(|seed| Some(fit(&|p| p.seed == seed)?.slope)).collect();
        let (exponent, interval) = match Interval::of_mean(&exponents) {
            Some((mean, interval)) => (mean, interval),
            None => (all.slope, all.interval),
        };
        Some(Self { fit: all, exponents, exponent, interval })
    }

    fn told(&self) -> String {
        let Interval { lower, upper } = self.interval;
        let of = match self.exponents.len() {
            0 | 1 => format!("{} points", self.fit.n),
            seeds => format!("{seeds} seeds"),
        };
        format!("n^{:.2} (95 %: {lower:.2} to {upper:.2}, {of})", self.exponent)
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
    Ok(Some(StopCheck {
        n,
        pilots,
        predicted: found.step,
        interval: [found.lower, found.upper],
        measured,
        warning: found.warning,
    }))
}

impl OnsetAnalysis {
    pub(super) fn answer(&self) -> String {
        let law = |what: &str, law: &Option<PowerLaw>| match law {
            Some(law) => format!("{what} grows as {}", law.told()),
            None => format!("{what} is not known as a function of n: fewer than three arms tell of it"),
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
        let at_first = self.points.iter().filter(|p| p.good_at_first_look);
        let at_first: BTreeSet<(usize, u64)> = at_first.filter_map(|p| Some((p.n, p.good? as u64))).collect();
        if !at_first.is_empty() {
            let told: Vec<String> =
                at_first.iter().map(|(n, step)| format!("of {n} images by step {step}")).collect();
            text +=
                &format!("Good at their first look, and left out of that: samples {}. ", told.join(" and "));
        }
        if let Some(c) = &self.collapse {
            let [steps, scaled] = [c.over_steps, c.over_steps_by_image];
            let does = if scaled < 0.5 * steps { "collapse" } else { "do not collapse" };
            text += &format!(
                "Curves of f_mem lie {steps:.2} apart over steps and {scaled:.2} over steps by image: they {does}. "
            );
        }
        if let Some(s) = &self.stop {
            let [low, high] = s.interval;
            let within = s.measured.iter().filter(|m| (low..=high).contains(*m)).count();
            let measured: Vec<String> = s.measured.iter().map(|m| format!("{m:.0}")).collect();
            let measured = match measured.len() {
                0 => "not reached".to_owned(),
                all => format!("at {}, {within} of {all} within", measured.join(", ")),
            };
            text += &format!(
                "From {} and {} images the onset for {} was predicted at step {:.0} (95 %: {low:.0} to {high:.0}); it is {measured}. ",
                s.pilots[0], s.pilots[1], s.n, s.predicted
            );
            if let Some(warning) = &s.warning {
                text += &format!("The pilots themselves warn: {warning}. ");
            }
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
                good_at_first_look: false,
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

    /// Seeds that differ in their exponents: the interval is of three numbers, not of twelve.
    #[test]
    fn the_interval_of_an_exponent_is_over_seeds() {
        let of = |(seed, exponent): (u64, f64)| {
            lawful(exponent).into_iter().map(move |(p, ..)| OnsetPoint { seed, ..p })
        };
        let points: Vec<OnsetPoint> = [(0, 1.1), (1, 1.2), (2, 1.3)].into_iter().flat_map(of).collect();
        let law = PowerLaw::of(&points, |p| p.memorised).unwrap();
        // 4.3027 of t with two degrees of freedom, 0.1 / sqrt(3) of the mean.
        assert!((law.exponent - 1.2).abs() < 1e-3 && law.exponents.len() == 3);
        assert!((law.interval.upper - law.exponent - 4.302_65 * 0.1 / 3f64.sqrt()).abs() < 1e-2, "{law:?}");
        let one = PowerLaw::of(&points[..4], |p| p.memorised).unwrap();
        assert_eq!((one.exponent, one.interval), (one.fit.slope, one.fit.interval));
        assert!(PowerLaw::of(&points[..2], |p| p.memorised).is_none());
    }

    /// What was good before anybody looked is no point of the law; and no result at all is none of anything.
    #[test]
    fn what_no_look_preceded_is_left_out() {
        let config = OnsetConfig { threshold: 0.1 };
        let found = config.run(&[], &[]).unwrap();
        assert_eq!((found.quality, found.points.len()), (None, 0));
        let text = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<OnsetAnalysis>(&text).unwrap(), found);
        let points: Vec<OnsetPoint> = lawful(1.0)
            .into_iter()
            .map(|(p, ..)| OnsetPoint { good: Some(256.0), good_at_first_look: p.n == 128, ..p })
            .collect();
        let good = PowerLaw::of(&points, |p| p.good.filter(|_| !p.good_at_first_look));
        assert_eq!(good.as_ref().map(|law| law.fit.n), Some(3));
        let answer = OnsetAnalysis { points, good, ..found }.answer();
        assert!(answer.contains("left out of that: samples of 128 images by step 256"), "{answer}");
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
