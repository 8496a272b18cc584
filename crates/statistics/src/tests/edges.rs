//! Where there is no test, what words are said, and what is refused.

use crate::{
    Degenerate, Direction, Error, Evidence, LogLogFit, Options, PairedDifference, decide, holm, paired,
};

fn compare(baseline: &[f64], arm: &[f64]) -> PairedDifference {
    paired(baseline, arm, Options::default()).unwrap()
}

#[track_caller]
fn says(error: Error, words: &str) {
    assert!(error.to_string().starts_with(words), "{error}");
}

/// The JSON of a result has a null where nothing is known, never a number that is none.
#[track_caller]
fn check_degenerate(found: PairedDifference, why: Degenerate, mean: f64, p: Option<f64>) {
    assert_eq!((found.degenerate, found.p), (Some(why), p), "{found:?}");
    assert!((found.mean - mean).abs() <= 1e-14 * mean.abs(), "{found:?}");
    assert!(found.interval.is_none() && found.bootstrap.is_none());
    assert!(found.d_z.is_none() && found.d_z_corrected.is_none());
    assert_eq!(found.sd, (found.n > 1).then_some(0.0));
    let read: PairedDifference = serde_json::from_str(&serde_json::to_string(&found).unwrap()).unwrap();
    assert_eq!(read, found);
}

#[test]
fn nothing_is_claimed_without_a_spread() {
    check_degenerate(compare(&[1.0], &[3.0]), Degenerate::OnePair, 2.0, None);
    check_degenerate(compare(&[1.0], &[1.0]), Degenerate::OnePair, 0.0, None);
    check_degenerate(compare(&[1.0, 2.0, 5.0], &[1.0, 2.0, 5.0]), Degenerate::NoDifference, 0.0, Some(1.0));
    check_degenerate(compare(&[0.0; 2], &[0.0; 2]), Degenerate::NoDifference, 0.0, Some(1.0));
    check_degenerate(compare(&[1.0, 2.0, 5.0], &[0.5, 1.5, 4.5]), Degenerate::EqualDifferences, -0.5, None);
    // Equal and none but for rounding, which formulae would give p values of 1e-31 and 0.4.
    let (baseline, arm) = ([1.0, 2.0, 4.0], [1.1, 2.1, 4.1]);
    assert!(arm[0] - baseline[0] != arm[2] - baseline[2]);
    check_degenerate(compare(&baseline, &arm), Degenerate::EqualDifferences, 0.1, None);
    check_degenerate(compare(&[0.3, 0.7], &[0.1 + 0.2, 0.7]), Degenerate::NoDifference, 0.0, Some(1.0));
}

/// One pair that differs from the others is a spread, as are the least and the largest numbers that can be.
#[test]
fn spreads_of_any_size_are_tested() {
    let one = compare(&[1.0; 4], &[1.0, 1.0, 1.0, 2.0]);
    assert!((one.p.unwrap() - 0.391_002_218_955_771).abs() < 1e-12, "{one:?}"); // t = 1, 3 degrees of freedom
    for unit in [1e-305, 1e-150, 1e-3, 1e150, 1e299] {
        let found = compare(&[0.0; 3], &[unit, 2.0 * unit, 4.5 * unit]);
        assert!((found.d_z.unwrap() - 2.5 / 3.25f64.sqrt()).abs() < 1e-12, "{found:?}");
        assert!(found.interval.unwrap().upper.is_finite() && found.bootstrap.unwrap().lower == unit);
        assert!((found.sd.unwrap() / unit - 3.25f64.sqrt()).abs() < 1e-9);
    }
}

#[test]
fn pairs_have_no_order_and_arms_are_mirrored() {
    for n in [2, 3, 8, 30] {
        let baseline: Vec<f64> = (0..n).map(|i| f64::from(i * i % 7)).collect();
        let arm: Vec<f64> = (0..n).map(|i| f64::from(i * 5 % 11) / 3.0).collect();
        let found = compare(&baseline, &arm);
        let reversed = |x: &[f64]| x.iter().rev().copied().collect::<Vec<_>>();
        assert_eq!(found, compare(&reversed(&baseline), &reversed(&arm)));
        let mirrored = compare(&arm, &baseline);
        assert!(
            (found.mean + mirrored.mean).abs() < 1e-15
                && (found.p.unwrap() - mirrored.p.unwrap()).abs() < 1e-14
        );
        let (a, b) = (found.bootstrap.unwrap(), mirrored.bootstrap.unwrap());
        // What is drawn is mirrored up to the error of drawing.
        let slack = if n > 10 { 0.1 } else { 1e-14 };
        assert!((a.lower + b.upper).abs() < slack && (a.upper + b.lower).abs() < slack, "{a:?} {b:?}");
    }
    let many: Vec<f64> = (0..30).map(|i| f64::from(i).sin()).collect();
    let seeded = |seed| paired(&[0.0; 30], &many, Options { seed, ..Options::default() }).unwrap();
    assert_eq!(seeded(1), seeded(1));
    assert_ne!(seeded(1).bootstrap, seeded(2).bootstrap);
}

#[test]
fn decisions_are_in_words() {
    let baseline = [10.0, 11.0, 12.0, 10.5, 11.5];
    let arm = |by: [f64; 5]| compare(&baseline, &std::array::from_fn::<f64, 5, _>(|i| baseline[i] + by[i]));
    let lower = arm([-1.0, -1.1, -0.9, -1.05, -0.95]);
    let unclear = arm([-1.0, 1.1, 0.9, -1.05, 0.95]);
    let one = compare(&[1.0], &[0.0]);
    let equal = compare(&[1.0, 2.0], &[0.0, 1.0]);
    let none = compare(&[1.0, 2.0], &[1.0, 2.0]);
    let (down, up) = (Direction::LowerIsBetter, Direction::HigherIsBetter);
    let family = [(one, down), (lower, down), (lower, up), (unclear, down), (equal, up), (none, up)];
    let found = decide(&family).unwrap();
    let words: Vec<String> = found.iter().map(|d| d.evidence.to_string()).collect();
    let wanted = [
        "one seed: cannot be told from chance",
        "better",
        "worse",
        "no evidence of a difference",
        "the same difference in every seed: no spread to test it against",
        "no evidence of a difference",
    ];
    assert_eq!(words, wanted);
    // Four of six have a test.
    let p = lower.p.unwrap();
    let adjusted: Vec<Option<f64>> = found.iter().map(|d| d.adjusted_p).collect();
    assert_eq!(adjusted, [None, Some(4.0 * p), Some(4.0 * p), Some(1.0), None, Some(1.0)]);
    assert!(decide(&[]).unwrap().is_empty());
}

/// What is evidence alone need not be so among others.
#[test]
fn a_claim_weakens_in_a_family() {
    let weak = compare(&[0.0; 4], &[1.0, 2.0, 3.0, 4.0]); // p = 0.03
    let nothing = compare(&[0.0; 4], &[-1.0, 1.0, -2.0, 2.0]);
    let evidence = |family: &[PairedDifference]| {
        let family: Vec<_> = family.iter().map(|d| (*d, Direction::HigherIsBetter)).collect();
        decide(&family).unwrap()[0].evidence
    };
    assert_eq!(evidence(&[weak]), Evidence::Better);
    assert_eq!(evidence(&[weak, nothing]), Evidence::NoEvidence);
}

#[test]
fn values_that_are_none_are_named() {
    let fails = |baseline: &[f64], arm: &[f64]| paired(baseline, arm, Options::default()).unwrap_err();
    says(fails(&[1.0, 2.0], &[1.0]), "arm: 1 values beside 2 of baseline: give one a seed in both");
    says(
        fails(&[1.0, 2.0], &[1.0, f64::NAN]),
        "arm[1]: NaN is not a finite number up to 1e300: leave the seed out",
    );
    says(fails(&[f64::NEG_INFINITY], &[1.0]), "baseline[0]: -inf is not a finite number");
    says(fails(&[1e301], &[1.0]), "baseline[0]: 1");
    says(fails(&[], &[]), "arm: 0 values where 1 to 10000 are needed");
    let few = Options { resamples: 39, seed: 0 };
    says(paired(&[1.0], &[1.0], few).unwrap_err(), "resamples: 39: at least 1000");
    for p in [-0.1, 1.1, f64::NAN] {
        says(holm(&[0.5, p]).unwrap_err(), &format!("p[1]: {p} is not a probability"));
    }
    let line = |x: &[f64], y: &[f64]| LogLogFit::new(x, y).unwrap_err();
    says(line(&[1.0, 2.0, 3.0], &[1.0, 2.0]), "y: 2 values beside 3 of x");
    says(line(&[1.0, 2.0], &[1.0, 2.0]), "y: 2 values where 3 to 10000 are needed");
    says(line(&[1.0; 10_001], &[1.0; 10_001]), "y: 10001 values where 3 to 10000 are needed");
    says(line(&[1.0, 0.0, 3.0], &[1.0; 3]), "x[1]: 0 is not positive and finite");
    says(line(&[1.0, 2.0, 3.0], &[1.0, 2.0, -0.5]), "y[2]: -0.5 is not positive and finite");
    says(line(&[1.0, 2.0, 3.0], &[1.0, f64::INFINITY, 1.0]), "y[1]: inf");
    says(line(&[4.0; 3], &[1.0, 2.0, 3.0]), "x: all 3 values are 4 to one part in 10^9");
    // So near each other that logarithms would show rounding alone.
    says(line(&[1e16, 1e16 + 2.0, 1e16 + 4.0], &[1.0, 2.0, 3.0]), "x: all 3 values are 10000000000000000");
}

#[test]
fn exact_laws_are_met_exactly() {
    let x = [2.0, 8.0, 64.0];
    let fit = LogLogFit::new(&x, &x.map(|x: f64| 3.0 * x.powf(1.5))).unwrap();
    assert!(
        (fit.slope - 1.5).abs() < 1e-14 && fit.error < 1e-14 && (fit.intercept - 3f64.ln()).abs() < 1e-14
    );
    assert!((fit.r_squared.unwrap() - 1.0).abs() < 1e-14);
    let flat = LogLogFit::new(&x, &[0.7; 3]).unwrap();
    assert!(flat.slope.abs() < 1e-15 && flat.r_squared.is_none() && flat.interval.upper.abs() < 1e-14);
}
