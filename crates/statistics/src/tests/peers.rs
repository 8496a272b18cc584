//! scipy's and statsmodels' numbers, which `tests/golden/make.py` writes down.

use crate::student::{student_quantile, two_sided_p};
use crate::{LogLogFit, Options, holm, paired};
use serde_json::Value;

fn golden(name: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/peers.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    all[name].as_array().unwrap().clone()
}

fn list(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[track_caller]
fn close(found: f64, wanted: &Value, what: &str) {
    let wanted = wanted.as_f64().unwrap();
    assert!((found - wanted).abs() <= 1e-9 * wanted.abs(), "{what}: {found}, the peer has {wanted}");
}

#[test]
fn paired_differences_are_scipys() {
    for case in golden("paired") {
        let (baseline, arm) = (list(&case["baseline"]), list(&case["arm"]));
        let found = paired(&baseline, &arm, Options { resamples: 400_000, seed: 0 }).unwrap();
        close(found.mean, &case["mean"], "mean");
        close(found.sd.unwrap(), &case["sd"], "sd");
        close(found.p.unwrap(), &case["p"], "p");
        close(found.interval.unwrap().lower, &case["interval"][0], "lower");
        close(found.interval.unwrap().upper, &case["interval"][1], "upper");
        close(found.d_z.unwrap(), &case["d_z"], "d_z");
        assert_eq!(found.d_z_corrected.is_some(), found.n > 2);
        found.d_z_corrected.inspect(|d| close(*d, &case["d_z_corrected"], "corrected d_z"));

        let bootstrap = found.bootstrap.unwrap();
        if case["all"].is_array() {
            close(bootstrap.lower, &case["all"][0], "lower percentile");
            close(bootstrap.upper, &case["all"][1], "upper percentile");
        }
        if case["drawn"].is_array() {
            // Sums in another order differ in their last bits.
            let slack = 1e-12 * found.mean.abs();
            let wider = list(&case["drawn"][0]);
            let narrower = list(&case["drawn"][1]);
            let between = |low: f64, x: f64, high: f64| (low - slack..=high + slack).contains(&x);
            assert!(between(wider[0], bootstrap.lower, narrower[0]), "{bootstrap:?} {wider:?} {narrower:?}");
            assert!(between(narrower[1], bootstrap.upper, wider[1]), "{bootstrap:?} {wider:?} {narrower:?}");
        }
    }
}

#[test]
fn adjusted_p_values_are_statsmodels() {
    for case in golden("holm") {
        let found = holm(&list(&case["p"])).unwrap();
        assert_eq!(found.len(), list(&case["p"]).len());
        found.iter().enumerate().for_each(|(i, p)| close(*p, &case["adjusted"][i], "adjusted p"));
    }
}

#[test]
fn lines_are_scipys() {
    for case in golden("lines") {
        let found = LogLogFit::new(&list(&case["x"]), &list(&case["y"])).unwrap();
        close(found.slope, &case["slope"], "slope");
        close(found.error, &case["error"], "error");
        close(found.interval.lower, &case["interval"][0], "lower");
        close(found.interval.upper, &case["interval"][1], "upper");
        close(found.intercept, &case["intercept"], "intercept");
        close(found.r_squared.unwrap(), &case["r_squared"], "R squared");
    }
}

#[test]
fn t_is_scipys() {
    for case in golden("quantiles") {
        let freedom = case[0].as_u64().unwrap() as usize;
        close(student_quantile(freedom), &case[1], &format!("quantile of {freedom} degrees of freedom"));
    }
    for case in golden("tails") {
        let (t, freedom) = (case[0].as_f64().unwrap(), case[1].as_u64().unwrap() as usize);
        close(two_sided_p(t, freedom), &case[2], &format!("p of {t} with {freedom} degrees of freedom"));
    }
}
