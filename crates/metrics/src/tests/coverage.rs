//! 95 % intervals hold what they are about in about 95 of 100 simulated samples.

use super::definitions::normal;
use crate::{
    FrechetReference, Interval, MifidOrder, Moments, Subsets, ThreeSets, cmmd, data_copying_in,
    kernel_distance, mifid, vendi_score,
};
use ndarray::{Array1, Array2, Axis};

/// Of `runs` intervals, the share that holds the mean of their values: what they are about is the expected value at this
/// number of samples.
#[track_caller]
fn check(name: &str, runs: u64, least: f64, one: impl Fn(u64) -> Interval) {
    let intervals: Vec<Interval> = (0..runs).map(one).collect();
    let mean = intervals.iter().map(|i| i.value).sum::<f64>() / runs as f64;
    let share = intervals.iter().filter(|i| i.lower <= mean && mean <= i.upper).count() as f64 / runs as f64;
    let spread = intervals.iter().map(|i| (i.value - mean).powi(2)).sum::<f64>() / runs as f64;
    let half = intervals.iter().map(|i| (i.upper - i.lower) / 2.0).sum::<f64>() / runs as f64;
    println!("{name}: {share}, half width over sd {}", half / spread.sqrt());
    assert!((least..=0.995).contains(&share), "{name}: {share}");
}

fn gaussian(width: usize) -> FrechetReference {
    let (mean, covariance) = (Array1::zeros(width), Array2::eye(width));
    FrechetReference::from_moments(&Moments::from_parts(1 << 20, mean.view(), covariance.view()).unwrap())
        .unwrap()
}

#[test]
fn intervals_of_the_frechet_distance_cover() {
    let reference = gaussian(4);
    let scale = ndarray::array![[0.5, 1.0, 1.5, 0.9]];
    check("fd", 300, 0.92, |seed| {
        let x = normal(seed, 400, 4) * &scale + 0.3;
        reference.interval_of(x.view()).unwrap().interval
    });
    check("fd with a dead feature", 300, 0.92, |seed| {
        let mut x = normal(seed, 400, 4) * &scale + 0.3;
        x.column_mut(2).fill(0.0);
        reference.interval_of(x.view()).unwrap().interval
    });
    let reference = gaussian(30);
    check("fd of few rows", 150, 0.9, |seed| {
        let x = normal(1000 + seed, 25, 30) * 1.2 + 0.3;
        reference.interval_of(x.view()).unwrap().interval
    });
}

/// Samples that are near training rows, so that the cosine distance counts: by influences; of few rows the interval is that of
/// the whole metric without each group of them.
#[test]
fn intervals_of_the_memorization_informed_distance_cover() {
    let train = normal(9, 300, 4);
    let scale = ndarray::array![[0.5, 1.0, 1.5, 0.9]];
    let of = |x: ndarray::Array2<f64>, train: &ndarray::Array2<f64>| {
        let found = mifid(x.view(), train.view(), MifidOrder::Generated).unwrap();
        assert!(found.cosine_distance < 0.1, "{found:?}");
        found.interval
    };
    check("mifid", 200, 0.92, |seed| of(normal(seed, 400, 4) * &scale + 0.3, &train));
    let (wide, n) = (normal(10, 60, 30), 25);
    let few = &wide.slice(ndarray::s![..n, ..]) + &(normal(11, n, 30) * 0.3);
    let found = of(few.clone(), &wide);
    let without = |i: usize| {
        let kept: Vec<usize> = (0..n).filter(|j| j % 20 != i || *j >= 20).collect();
        mifid(few.select(Axis(0), &kept).view(), wide.view(), MifidOrder::Generated).unwrap().value
    };
    let values: Vec<f64> = (0..20).map(without).collect();
    let mean = values.iter().sum::<f64>() / 20.0;
    let error = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 20.0 * (n - 1) as f64).sqrt();
    let half = 2.093_024_054 * error;
    assert!((found.upper - found.value - half).abs() < 1e-6 * found.value, "{found:?}, {half}");
}

#[test]
fn intervals_of_kernel_distances_cover() {
    let y = normal(9, 300, 4);
    let x = |seed| normal(2000 + seed, 200, 4) * 1.2 + 0.2;
    check("kid", 300, 0.92, |seed| kernel_distance(x(seed).view(), y.view(), Subsets::All).unwrap());
    check("cmmd", 300, 0.92, |seed| cmmd((x(seed) + 0.3).view(), y.view()).unwrap());
    // Subsets are of both sets, so that both are drawn anew.
    check("kid of subsets", 200, 0.92, |seed| {
        let y = normal(5000 + seed, 200, 4);
        let subsets = Subsets::Random { count: 50, size: 40, seed };
        kernel_distance(x(seed).view(), y.view(), subsets).unwrap()
    });
}

#[test]
fn intervals_of_the_vendi_score_cover() {
    let scale = ndarray::array![[1.0, 0.7, 0.4, 0.2]];
    check("vendi", 300, 0.92, |seed| vendi_score((normal(seed, 300, 4) * &scale + 0.5).view()).unwrap());
}

/// Where samples are alike held-out rows and where they are not.
#[test]
fn intervals_of_the_data_copying_test_cover() {
    let train = normal(8, 100, 3);
    let labels = |train: &Array2<f64>, x: &Array2<f64>, y: &Array2<f64>| {
        let of = |rows: &Array2<f64>| rows.outer_iter().map(|r| usize::from(r[0] > 0.0)).collect::<Vec<_>>();
        crate::CellLabels { generated: of(x), train: of(train), held_out: of(y) }
    };
    for (name, scale) in [("c_t of fresh data", 1.0), ("c_t of copies", 0.7)] {
        check(name, 300, 0.92, |seed| {
            let (x, y) = (normal(3000 + seed, 120, 3) * scale, normal(4000 + seed, 120, 3));
            let sets = ThreeSets { generated: x.view(), train: train.view(), held_out: y.view() };
            data_copying_in(sets, &labels(&train, &x, &y), 0.0).unwrap().interval
        });
    }
}
