//! What is no set of features gives an error that says so, never a number.

use super::definitions::normal;
use crate::{
    CellLabels, Error, Evaluation, FeatureMetric, FrechetReference, Half, InceptionScore, MifidOrder,
    Moments, NeighborOptions, Options, Set, Subsets, ThreeSets, agreement, cmmd, data_copying,
    data_copying_in, feature_likelihood, frechet_distance, kernel_distance, mifid, psnr, ssim, vendi_score,
};
use ndarray::{Array1, Array2, Array4, array, s};

fn text<T>(found: Result<T, Error>) -> String {
    found.err().map_or_else(|| "a number".into(), |e| e.to_string())
}

/// Every metric of two sets.
fn of_two(x: &Array2<f64>, y: &Array2<f64>) -> Vec<String> {
    let (x, y) = (x.view(), y.view());
    vec![
        text(frechet_distance(x, y)),
        text(FrechetReference::new(y).and_then(|r| r.interval_of(x))),
        text(kernel_distance(x, y, Subsets::All)),
        text(cmmd(x, y)),
        text(mifid(x, y, MifidOrder::Generated)),
    ]
}

#[test]
fn sets_that_cannot_be_compared_are_refused() {
    let (x, y) = (normal(0, 20, 4), normal(1, 30, 4));
    for found in of_two(&x.slice(s![..1, ..]).to_owned(), &y) {
        assert!(found.starts_with("generated: 1 distinct rows where at least"), "{found}");
    }
    let alike = Array2::ones((20, 4));
    for found in of_two(&alike, &y) {
        assert!(found.starts_with("generated: 1 distinct rows where at least"), "{found}");
    }
    for found in of_two(&x, &alike) {
        assert!(found.contains(": 1 distinct rows where at least 2 are needed"), "{found}");
    }
    for found in of_two(&x.slice(s![.., ..3]).to_owned(), &y) {
        assert_eq!(found, "generated: rows of 3 numbers where 4 are needed");
    }
    for found in of_two(&Array2::zeros((20, 0)), &Array2::zeros((20, 0))) {
        assert!(found.ends_with(": rows of 0 numbers where 1 are needed"), "{found}");
    }
    let mut bad = x.clone();
    bad[(7, 2)] = f64::NAN;
    bad[(9, 2)] = f64::INFINITY;
    for found in of_two(&bad, &y) {
        assert_eq!(found, "generated: row 7 has a value that is not finite");
    }
    for found in of_two(&y, &bad) {
        assert!(found.ends_with(": row 7 has a value that is not finite"), "{found}");
    }
    let mut empty = x.clone();
    empty.row_mut(3).fill(0.0);
    let zeros = "generated: row 3 is all zeros, which has no cosine with anything";
    assert_eq!(text(cmmd(empty.view(), y.view())), zeros);
    assert_eq!(text(mifid(empty.view(), y.view(), MifidOrder::Train)), zeros);
    assert_eq!(text(vendi_score(empty.view())), zeros.replace("generated", "features"));
    assert_eq!(
        text(vendi_score(x.slice(s![..2, ..]))),
        "features: 2 distinct rows where at least 3 are needed"
    );
}

#[test]
fn moments_that_are_none_are_refused() {
    let mut moments = Moments::new(2);
    moments.add("batch", array![[1.0f32, 2.0]].view()).unwrap();
    let late = text(moments.add("batch", array![[1.0f32, 2.0], [f32::NAN, 0.0]].view()));
    assert_eq!(
        late, "batch: row 2 has a value that is not finite",
        "rows are counted from the first batch on"
    );
    assert_eq!(moments.count(), 1, "and nothing of the batch is in");
    let one = text(FrechetReference::from_moments(&moments));
    assert_eq!(one, "reference: 1 distinct rows where at least 2 are needed");
    let mean = Array1::zeros(2);
    let parts =
        |count, covariance: Array2<f64>| text(Moments::from_parts(count, mean.view(), covariance.view()));
    assert_eq!(
        parts(9, array![[1.0, 0.5], [0.4, 1.0]]),
        "covariance: row 1 is not symmetric, or its variance is negative"
    );
    assert_eq!(
        parts(9, array![[-1.0, 0.0], [0.0, 1.0]]),
        "covariance: row 0 is not symmetric, or its variance is negative"
    );
    assert_eq!(parts(9, array![[1.0, 0.0]]), "covariance: rows of 1 numbers where 2 are needed");
    assert_eq!(parts(1, Array2::eye(2)), "moments: 1 distinct rows where at least 2 are needed");
    assert_eq!(
        parts(9, array![[1.0, 0.0], [0.0, f64::NAN]]),
        "covariance: row 1 has a value that is not finite"
    );
    let nan = Moments::from_parts(9, array![0.0, f64::NAN].view(), Array2::eye(2).view());
    assert_eq!(text(nan), "mean: row 0 has a value that is not finite");
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let (x, y) = (normal(0, 20, 4), normal(1, 30, 4));
    let kid =
        |count, size| text(kernel_distance(x.view(), y.view(), Subsets::Random { count, size, seed: 0 }));
    assert_eq!(kid(10, 21), "subset size: 21, where 2 to 20 (the size of the smaller set) are possible");
    assert!(kid(10, 1).starts_with("subset size: 1,"));
    assert_eq!(kid(0, 10), "subsets: 0, where at least 1 is needed");
    let score = |splits| text(InceptionScore::of_logits(x.view(), splits, None));
    assert_eq!(score(21), "splits: 21, where 1 to 20 (the number of rows) are possible");
    assert!(score(0).starts_with("splits: 0,"));
    let logits = array![[1.0, f64::NEG_INFINITY], [0.0, 0.0]];
    let found = text(InceptionScore::of_logits(logits.view(), 1, None));
    assert_eq!(found, "logits: row 0 has a value that is not finite");
    let found = text(InceptionScore::of_probabilities(array![[0.5, 0.5], [0.9, 0.9]].view(), 1, None));
    assert!(found.starts_with("probabilities: row 1 is not a distribution"), "{found}");
    let sure = InceptionScore::of_probabilities(array![[1.0, 0.0], [0.0, 1.0]].view(), 1, None).unwrap();
    assert!((sure.mean() - 2.0).abs() < 1e-12, "a probability of 0 adds nothing");
}

#[test]
fn three_sets_that_do_not_fit_are_refused() {
    let (x, train, y) = (normal(0, 40, 4), normal(1, 30, 4), normal(2, 25, 4));
    let sets = ThreeSets { generated: x.view(), train: train.view(), held_out: y.view() };
    let labels = |g: usize, t: usize, h: usize| CellLabels {
        generated: vec![0; g],
        train: vec![0; t],
        held_out: vec![0; h],
    };
    let found = text(data_copying_in(sets, &labels(39, 30, 25), 0.0));
    assert_eq!(found, "cell labels: 39, where generated has 40 rows");
    let mut apart = labels(40, 30, 25);
    apart.train[3] = 1;
    assert_eq!(
        text(data_copying_in(sets, &apart, 0.0)),
        "held_out: no row in cell 1; use fewer cells or more rows"
    );
    let found = text(data_copying_in(sets, &labels(40, 30, 25), 1.0));
    assert_eq!(found, "threshold of a cell: 1, which no cell's share of samples is above");
    for cells in [0, 31] {
        let found = text(data_copying(sets, cells, 0));
        assert!(found.starts_with(&format!("cells: {cells}, where 1 to")), "{found}");
    }
    let narrow = y.slice(s![.., ..3]);
    let wrong = ThreeSets { held_out: narrow, ..sets };
    assert_eq!(text(feature_likelihood(wrong, None, 0)), "held_out: rows of 3 numbers where 4 are needed");
    let alike = Array2::ones((9, 4));
    let found = text(feature_likelihood(ThreeSets { held_out: alike.view(), ..sets }, None, 0));
    assert_eq!(found, "held_out: 1 distinct rows where at least 2 are needed");
    // A feature that never changes in the held-out set has no scale.
    let mut dead = y.clone();
    dead.column_mut(1).fill(2.0);
    let found = feature_likelihood(ThreeSets { held_out: dead.view(), ..sets }, None, 0).unwrap();
    assert_eq!(found.left_out, 1);
    assert!(found.divergence.value.is_finite() && found.gap.value.is_finite());
}

#[test]
fn pairs_that_do_not_fit_are_refused() {
    let (x, train) = (normal(0, 10, 4), normal(1, 30, 4));
    let half = |generated| Half { generated, train: train.view() };
    let found = text(agreement(half(x.view()), half(x.slice(s![..9, ..])), 0.6, 0));
    assert_eq!(found, "samples: 10 and 9, where both models need as many");
    let found = text(agreement(half(x.view()), half(x.view()), 1.0, 0));
    assert_eq!(found, "threshold: 1, where a cosine between -1 and 1 is needed");
    let images = Array4::<f32>::zeros((2, 1, 10, 12));
    assert_eq!(
        text(ssim(images.view(), images.view(), 1.0)),
        "images: rows of 10 numbers where 11 are needed"
    );
    let other = Array4::<f32>::zeros((2, 1, 10, 11));
    assert!(text(psnr(images.view(), other.view(), 1.0)).starts_with("shape of the images: [2, 1, 10, 12]"));
    assert_eq!(text(psnr(images.view(), images.view(), 0.0)), "range: 0, where a positive number is needed");
    let mut bad = images.clone();
    bad[(1, 0, 3, 3)] = f32::NAN;
    assert_eq!(text(psnr(images.view(), bad.view(), 1.0)), "originals: row 1 has a value that is not finite");
    assert!(psnr(images.view(), images.view(), 1.0).unwrap().pooled.is_infinite());
}

/// Neighbourhoods that are none: which option, what it is, what it can be.
#[test]
fn options_that_cannot_be_are_refused() {
    let (x, y) = (normal(0, 20, 4), normal(1, 30, 4));
    let error = |neighbors: NeighborOptions| {
        let options = Options { neighbors, ..Options::default() };
        text(Evaluation::new(y.view(), Some(x.view().into()), options))
    };
    let usual = NeighborOptions::default();
    assert_eq!(error(usual), "a number");
    let found = error(NeighborOptions { nearest_k: 0, ..usual });
    assert_eq!(found, "nearest_k: 0, where at least 1 is needed");
    for carlini_k in [0, 1] {
        let found = error(NeighborOptions { carlini_k, ..usual });
        assert!(found.starts_with(&format!("carlini_k: {carlini_k}, where at least 2")), "{found}");
    }
    for memorized_ratio in [f64::NAN, 0.0, -1.0, 1.5] {
        let found = error(NeighborOptions { memorized_ratio, ..usual });
        assert!(found.starts_with(&format!("memorized_ratio: {memorized_ratio}, where")), "{found}");
    }
    assert!(error(NeighborOptions { carlini_alpha: 0.0, ..usual }).starts_with("carlini_alpha: 0,"));
    let none = text(Set::new("x", x.view(), Array1::zeros(4).view(), 0));
    assert_eq!(none, "nearest_k: 0, where at least 1 is needed");
}

/// A floor that cannot be had leaves the value, and says why; sets have their own names in it.
#[test]
fn a_missing_floor_is_no_missing_value() {
    let (x, train) = (normal(0, 200, 4), normal(1, 200, 4));
    let measured = |held_out: &Array2<f64>, metric| {
        let evaluation =
            Evaluation::new(train.view(), Some(held_out.view().into()), Options::default()).unwrap();
        evaluation.measure(x.view(), &[metric]).unwrap().remove(0).1
    };
    let found = measured(&normal(2, 30, 4), FeatureMetric::CT).unwrap();
    assert!(found.value.value.is_finite() && found.real_vs_train.is_none());
    assert!(found.notes[0].starts_with("its value for real data is missing: threshold"), "{:?}", found.notes);
    assert!(
        found.notes[0]
            .ends_with("every second of 30 held-out rows stood for a sample, and a cell needs more than 20")
    );
    let found = measured(&Array2::ones((30, 4)), FeatureMetric::Fd).unwrap();
    assert!(
        found.value.value.is_finite() && found.real_vs_train.is_none() && found.against_held_out.is_none()
    );
    assert_eq!(
        found.notes,
        [("against held-out rows", 2), ("for real data", 3)].map(|(what, needed)| format!(
            "its value {what} is missing: held_out: 1 distinct rows where at least {needed} are needed"
        ))
    );
}

/// An interval that nobody computed is none, and what limits a number is said beside it.
#[test]
fn what_a_number_lacks_is_said() {
    let (x, train) = (normal(0, 40, 60), normal(1, 50, 60));
    let found = |generated: &Array2<f64>, metric, frechet_intervals| {
        let options = Options { frechet_intervals, ..Options::default() };
        let evaluation = Evaluation::new(train.view(), None, options).unwrap();
        evaluation.measure(generated.view(), &[metric]).unwrap().remove(0).1.unwrap()
    };
    let fast = found(&x, FeatureMetric::Fd, false);
    assert!(fast.value.ends().is_none() && found(&x, FeatureMetric::Fd, true).value.ends().is_some());
    assert!(fast.notes[0].contains("full rank (40 and 50 rows of 60 features)"), "{:?}", fast.notes);
    assert!(found(&x, FeatureMetric::Mifid, true).value.ends().is_some());
    assert!(found(&x, FeatureMetric::Mifid, false).value.ends().is_none());
    assert!(found(&x, FeatureMetric::Kid, true).notes.is_empty());
    let copies = found(&train.slice(s![..40, ..]).to_owned(), FeatureMetric::Realism, true);
    assert!(copies.value.value.is_infinite() && copies.notes[0].contains("null"), "{:?}", copies.notes);
}

#[test]
fn sums_that_leave_f32_are_no_number() {
    let (x, y) = (normal(0, 20, 4).mapv(|v| v as f32 * 1e8), normal(1, 30, 4).mapv(|v| v as f32 * 1e8));
    for subsets in [Subsets::All, Subsets::Random { count: 4, size: 8, seed: 0 }] {
        let found = text(kernel_distance(x.view(), y.view(), subsets));
        assert!(found.starts_with("kernel distance: is not finite"), "{found}");
        let wide = kernel_distance(x.mapv(f64::from).view(), y.mapv(f64::from).view(), subsets);
        assert!(wide.unwrap().value.is_finite());
    }
}
