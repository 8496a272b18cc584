//! Rates over simulated studies of normal differences, with fixed seeds.

use crate::bootstrap::percentile_interval;
use crate::paired::student;
use crate::{Direction, Evidence, Interval, Options, PairedDifference, decide, holm, paired};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

struct Normal(ChaCha8Rng);

impl Normal {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Box and Muller 1958.
    fn draw(&mut self) -> f64 {
        let mut uniform = || ((self.0.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos()
    }

    /// Ascending differences of `n` pairs.
    fn differences(&mut self, n: usize, mean: f64) -> Vec<f64> {
        let mut all: Vec<f64> = (0..n).map(|_| mean + self.draw()).collect();
        all.sort_by(f64::total_cmp);
        all
    }
}

/// Half the width of the interval that 99 % of binomial shares lie in.
fn binomial(share: f64, of: usize) -> f64 {
    2.576 * (share * (1.0 - share) / of as f64).sqrt()
}

#[track_caller]
fn check_share(hits: usize, of: usize, wanted: f64) {
    let (share, half) = (hits as f64 / of as f64, binomial(wanted, of));
    assert!((share - wanted).abs() <= half, "{share}, wanted {wanted} +- {half}");
}

fn holds(interval: Option<Interval>, value: f64) -> bool {
    interval.is_some_and(|i| (i.lower..=i.upper).contains(&value))
}

/// Without an effect, one decision in twenty claims one, as often either way. Pairs share most of what varies
/// with a seed.
#[test]
fn false_claims_are_as_rare_as_they_say() {
    const STUDIES: usize = 20_000;
    for n in [3, 5] {
        let mut normal = Normal::new(n as u64);
        let (mut better, mut worse) = (0, 0);
        for _ in 0..STUDIES {
            let baseline: Vec<f64> = (0..n).map(|_| 5.0 * normal.draw()).collect();
            let arm: Vec<f64> = baseline.iter().map(|b| b + 0.3 * normal.draw()).collect();
            let found = paired(&baseline, &arm, Options::default()).unwrap();
            let decision = decide(&[(found, Direction::LowerIsBetter)]).unwrap()[0];
            better += usize::from(decision.evidence == Evidence::Better);
            worse += usize::from(decision.evidence == Evidence::Worse);
        }
        check_share(better + worse, STUDIES, 0.05);
        check_share(better, STUDIES, 0.025);
    }
    let mut normal = Normal::new(10);
    let rejected = (0..STUDIES).filter(|_| student(&normal.differences(10, 0.0), 0.0).p.unwrap() <= 0.05);
    check_share(rejected.count(), STUDIES, 0.05);
}

#[test]
fn t_intervals_cover() {
    const STUDIES: usize = 20_000;
    for n in [2, 3, 5, 10] {
        let mut normal = Normal::new(100 + n as u64);
        let hits =
            (0..STUDIES).filter(|_| holds(student(&normal.differences(n, 1.7), 0.0).interval, 1.7)).count();
        check_share(hits, STUDIES, 0.95);
    }
}

/// The README's numbers. Of 3 it is 3/4 by counting: each end is an end of the data.
#[test]
fn bootstrap_intervals_are_too_narrow() {
    for (n, studies, wanted) in [(3, 20_000, 0.75), (5, 20_000, 0.84), (10, 500, 0.90)] {
        let mut normal = Normal::new(200 + n as u64);
        let interval = |d: Vec<f64>| Some(percentile_interval(&d, Options::default()));
        let hits = (0..studies).filter(|_| holds(interval(normal.differences(n, 1.7)), 1.7)).count() as f64;
        let slack = if n == 3 { 0.0 } else { 0.005 }; // two digits
        assert!((hits / studies as f64 - wanted).abs() <= binomial(wanted, studies) + slack, "{n}: {hits}");
    }
}

/// Ten arms that change nothing: together they make a false claim in one study of twenty, where they would in
/// four of ten.
#[test]
fn a_family_makes_few_false_claims() {
    const STUDIES: usize = 4000;
    let mut normal = Normal::new(300);
    let (mut adjusted, mut single) = (0, 0);
    for _ in 0..STUDIES {
        let p: Vec<f64> = (0..10).map(|_| student(&normal.differences(5, 0.0), 0.0).p.unwrap()).collect();
        single += usize::from(p.iter().any(|p| *p <= 0.05));
        adjusted += usize::from(holm(&p).unwrap().iter().any(|p| *p <= 0.05));
    }
    let share = adjusted as f64 / STUDIES as f64;
    assert!(share <= 0.05 + binomial(0.05, STUDIES), "{share}");
    check_share(single, STUDIES, 1.0 - 0.95f64.powi(10));
}

/// The mean of the corrected effect size is the truth; that of the plain one is larger.
#[test]
fn the_corrected_effect_size_has_no_bias() {
    const STUDIES: usize = 40_000;
    let mut normal = Normal::new(400);
    let found: Vec<PairedDifference> =
        (0..STUDIES).map(|_| student(&normal.differences(6, 0.8), 0.0)).collect();
    let mean_and_error = |of: fn(&PairedDifference) -> Option<f64>| {
        let values: Vec<f64> = found.iter().filter_map(of).collect();
        let mean = values.iter().sum::<f64>() / STUDIES as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / STUDIES as f64;
        (mean, (variance / STUDIES as f64).sqrt())
    };
    let (corrected, error) = mean_and_error(|f| f.d_z_corrected);
    assert!((corrected - 0.8).abs() < 3.0 * error, "{corrected} +- {error}");
    assert!(mean_and_error(|f| f.d_z).0 > 0.9);
}
