//! Values that a line of numpy gives for numbers that any language can make, and known cases.

use crate::draws::{generator, uniform, without_replacement};
use crate::kernel::{one_by_one, shared};
use crate::real::Rows;
use crate::{
    CellLabels, FrechetReference, Half, InceptionScore, MifidOrder, Moments, Subsets, ThreeSets, agreement,
    cmmd, data_copying, data_copying_in, feature_likelihood, frechet_distance, kernel_distance, mifid,
    vendi_score,
};
use ndarray::{Array2, Axis, concatenate, s};

/// `x <- 6364136223846793005 x + 1442695040888963407 mod 2^64` from `seed`, as `(x >> 11) / 2^53`, shifted and scaled.
fn congruential(rows: usize, seed: u64, scale: f64, shift: f64) -> Array2<f64> {
    let mut state = seed;
    Array2::from_shape_simple_fn((rows, 16), || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 11) as f64 / (1u64 << 53) as f64 - 0.5) * scale + shift
    })
}

/// References, samples of which the first 20 are near copies, and held-out rows.
fn sets() -> [Array2<f64>; 3] {
    let references = congruential(200, 1, 2.0, 0.0);
    let mut samples = congruential(150, 2, 1.9, 0.05);
    let copies = &references.slice(s![..20, ..]) + &congruential(20, 4, 0.01, 0.0);
    samples.slice_mut(s![..20, ..]).assign(&copies);
    [references, samples, congruential(120, 3, 2.0, 0.0)]
}

/// Standard normal numbers by a seed.
pub(super) fn normal(seed: u64, rows: usize, width: usize) -> Array2<f64> {
    let mut rng = generator(seed, 77);
    Array2::from_shape_simple_fn((rows, width), || {
        let (u, v) = (1.0 - uniform(&mut rng), uniform(&mut rng));
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    })
}

#[track_caller]
fn near(found: f64, wanted: f64, slack: f64) {
    assert!((found - wanted).abs() <= slack, "{found}, where {wanted} is known");
}

#[test]
fn numbers_that_any_language_can_make_give_known_values() {
    let [references, samples, held_out] = sets();
    let first = references.slice(s![0, ..3]).to_vec();
    assert_eq!(first, [-0.153_581_658_254_573_48, 0.018_814_885_767_441_28, 0.296_718_787_926_861_1]);
    let fd = frechet_distance(samples.view(), references.view()).unwrap();
    near(fd.value, 0.315_962_283_823_239_43, 1e-11);
    let kid = kernel_distance(references.slice(s![..150, ..]), samples.view(), Subsets::All).unwrap();
    near(kid.value, 0.004_889_121_328_915_28, 1e-12);
    near(cmmd(references.view(), samples.view()).unwrap().value, 0.191_567_356_624_178_23, 1e-10);
    near(vendi_score(samples.view()).unwrap().value, 15.149_798_510_526_944, 1e-9);
    let score = InceptionScore::of_logits((&samples * 3.0).view(), 10, None).unwrap();
    near(score.mean(), 1.970_770_607_250_183_8, 1e-12);
    near(score.std(), 0.047_406_278_025_786_02, 1e-12);
    let one_cell = CellLabels { generated: vec![0; 150], train: vec![0; 200], held_out: vec![0; 120] };
    let sets = ThreeSets { generated: samples.view(), train: references.view(), held_out: held_out.view() };
    near(data_copying_in(sets, &one_cell, 0.0).unwrap().interval.value, -3.468_619_559_452_503_8, 1e-9);
}

/// Whatever the batches, and a million away from the origin.
#[test]
fn moments_do_not_depend_on_batches_or_on_an_offset() {
    let x = normal(1, 1500, 5);
    let whole = Moments::of("x", x.view()).unwrap();
    let mut parts = Moments::new(5);
    let shifted = &x + 1e6;
    for (first, last) in [(0, 1), (1, 2), (2, 700), (700, 1500)] {
        parts.add("x", shifted.slice(s![first..last, ..])).unwrap();
    }
    let mean = x.mean_axis(Axis(0)).unwrap();
    let centered = &x - &mean;
    let covariance = centered.t().dot(&centered) / 1499.0;
    for j in 0..5 {
        near(whole.mean()[j], mean[j], 1e-13);
        near(parts.mean()[j] - 1e6, mean[j], 1e-9);
        for i in 0..5 {
            near(whole.covariance()[(i, j)], covariance[(i, j)], 1e-13);
            near(parts.covariance()[(i, j)], covariance[(i, j)], 1e-9);
        }
    }
    let again = Moments::from_parts(1500, mean.view(), covariance.view()).unwrap();
    near(again.covariance()[(1, 2)], covariance[(1, 2)], 1e-13);
}

/// Diagonal Gaussians have a closed form: the sum of `(m1 - m2)^2 + (s1 - s2)^2`.
#[test]
fn the_frechet_distance_of_known_gaussians_is_met_at_infinity() {
    let d = 12;
    let reference =
        Moments::from_parts(1_000_000, ndarray::Array1::zeros(d).view(), Array2::<f64>::eye(d).view())
            .unwrap();
    let reference = FrechetReference::from_moments(&reference).unwrap();
    let truth = d as f64 * (0.1f64.powi(2) + 0.2f64.powi(2));
    let (mut plain, mut extrapolated) = (Vec::new(), Vec::new());
    for seed in 0..40 {
        let x = normal(100 + seed, 300, d) * 1.2 + 0.1;
        plain.push(reference.distance_of(x.view()).unwrap().value);
        extrapolated.push(reference.infinity_of(x.view(), seed).unwrap().interval.value);
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    let (plain, extrapolated) = (mean(&plain), mean(&extrapolated));
    assert!(plain > truth * 1.2, "biased upwards: {plain}, where {truth} is true");
    assert!((extrapolated - truth).abs() < 0.25 * (plain - truth), "{extrapolated}, plain {plain}");
}

/// The same seed gives the same bytes; another seed other subsets.
#[test]
fn draws_are_functions_of_their_seeds() {
    let (x, y) = (normal(2, 90, 6), normal(3, 80, 6) + 0.2);
    let kid =
        |seed| kernel_distance(x.view(), y.view(), Subsets::Random { count: 12, size: 30, seed }).unwrap();
    assert_eq!(kid(1), kid(1));
    assert_ne!(kid(1).value, kid(2).value);
    let reference = FrechetReference::new(y.view()).unwrap();
    assert_eq!(reference.infinity_of(x.view(), 4).unwrap(), reference.infinity_of(x.view(), 4).unwrap());
    let sets = ThreeSets { generated: x.view(), train: y.view(), held_out: x.view() };
    assert_eq!(data_copying(sets, 2, 3).unwrap(), data_copying(sets, 2, 3).unwrap());
    assert_eq!(feature_likelihood(sets, None, 3).unwrap(), feature_likelihood(sets, None, 3).unwrap());
}

/// The mean over many subsets is the whole sets' value, since both are unbiased.
#[test]
fn subsets_agree_with_all() {
    let (x, y) = (normal(4, 400, 8), normal(5, 350, 8) * 1.3);
    let all = kernel_distance(x.view(), y.view(), Subsets::All).unwrap();
    let many = Subsets::Random { count: 400, size: 100, seed: 0 };
    let many = kernel_distance(x.view(), y.view(), many).unwrap();
    assert!((all.value - many.value).abs() < 0.2 * (many.upper - many.lower), "{all:?} {many:?}");
}

/// However the pairs of subsets are come by, also where blocks are not full.
#[test]
fn shared_pairs_give_the_same_subsets() {
    let (x, y) = (normal(6, 300, 8), normal(7, 270, 8) * 1.3);
    let rows = |x| Rows::new("x", x, 8, 2).unwrap();
    let (x, y) = (rows(x.view()), rows(y.view()));
    let draw = |n: usize| -> Vec<Vec<usize>> {
        (0..5).map(|k| without_replacement(&mut generator(n as u64, k), n, 60)).collect()
    };
    let (of_x, of_y) = (draw(300), draw(270));
    let [shared, alone] = [shared, one_by_one].map(|way| way(&x, &y, &of_x, &of_y));
    shared.iter().zip(alone).for_each(|(a, b)| near(*a, b, 1e-12));
}

/// Wide features are projected; three far-off crowds are found whatever the seed.
#[test]
fn cells_are_the_crowds_that_there_are() {
    let crowds: Vec<Array2<f64>> =
        (0..3).map(|k| normal(10 + k, 40, 70) + (&normal(20 + k, 1, 70) * 5.0)).collect();
    let train = concatenate![Axis(0), crowds[0], crowds[1], crowds[2]];
    // The components of features that are too wide for a covariance are those of the rows.
    let wide =
        Array2::from_shape_fn((120, 4200), |(i, j)| if j % 60 == 0 { train[(i, j / 60)] } else { 0.0 });
    for (train, seed) in (0..5).map(|seed| (&train, seed)).chain([(&wide, 0)]) {
        let cells = crate::Cells::fit(train.view(), 3, seed).unwrap();
        let found = cells.assign("train", train.view()).unwrap();
        let of: Vec<usize> = (0..3).map(|k| found[40 * k]).collect();
        assert!(found.iter().enumerate().all(|(i, cell)| *cell == of[i / 40]), "{found:?}");
        assert!(of[0] != of[1] && of[1] != of[2] && of[0] != of[2]);
    }
}

/// Fewer Gaussians than a half has rows leave the other half as it is.
#[test]
fn the_baseline_is_fitted_to_the_other_half() {
    let order: Vec<usize> = (0..101).rev().collect();
    let [centers, rest] = crate::feature_likelihood::halves(&order, 20);
    assert_eq!((centers, rest), (&order[..20], &order[50..]));
    assert_eq!(crate::feature_likelihood::halves(&order, 70).map(<[usize]>::len), [50, 51]);
}

/// Student's t of few splits, by tables; the expansion goes on from there.
#[test]
fn intervals_of_few_splits_are_students() {
    let half = |splits: &[f64]| {
        let score = InceptionScore { splits: splits.to_vec() };
        (score.interval().upper - score.interval().value) / (score.std() / (splits.len() as f64 - 1.0).sqrt())
    };
    near(half(&[1.0, 2.0]), 12.706_205, 1e-5);
    near(half(&[1.0, 2.0, 4.0]), 4.302_653, 1e-5);
    let alternating: Vec<f64> = (0..12).map(|i| f64::from(i % 2)).collect();
    near(half(&alternating), 2.200_985, 1e-3);
}

/// A copier, fresh data and pure noise: what each number is for.
#[test]
fn copies_are_told_from_fresh_data() {
    let (train, held_out) = (normal(30, 300, 8), normal(31, 300, 8));
    let copier = &train + &(normal(32, 300, 8) * 0.05);
    let (fresh, noise) = (normal(33, 300, 8), normal(34, 300, 8) * 3.0);
    fn sets<'a>(three: [&'a Array2<f64>; 3]) -> ThreeSets<'a, f64> {
        let [generated, train, held_out] = three.map(|x| x.view());
        ThreeSets { generated, train, held_out }
    }
    let c_t = |x: &Array2<f64>| data_copying(sets([x, &train, &held_out]), 3, 0).unwrap().interval;
    assert!(c_t(&copier).upper < -3.0 && c_t(&noise).lower > 3.0, "{:?} {:?}", c_t(&copier), c_t(&noise));
    assert!(c_t(&fresh).value.abs() < 3.5, "{:?}", c_t(&fresh));
    let fld = |x: &Array2<f64>| feature_likelihood(sets([x, &train, &held_out]), None, 0).unwrap();
    let (copied, drawn, bad) = (fld(&copier), fld(&fresh), fld(&noise));
    assert!(copied.gap.upper < drawn.gap.lower, "{copied:?} {drawn:?}");
    assert!(
        drawn.divergence.upper < copied.divergence.lower && drawn.divergence.upper < bad.divergence.lower
    );
}

/// Copies to the last bit have a cosine distance of 0, not of a rounding error below it.
#[test]
fn mifid_of_exact_copies_is_large_and_not_negative() {
    let train = normal(50, 200, 8).mapv(|x| x as f32);
    let copies = train.slice(s![..150, ..]);
    let found = mifid(copies, train.view(), MifidOrder::Generated).unwrap();
    assert!((0.0..1e-14).contains(&found.cosine_distance), "{found:?}");
    assert!(found.value > 1e12 * found.frechet_distance, "{found:?}");
}

/// Two models that generalize agree with each other; two copiers with their own halves.
#[test]
fn agreement_tells_generalization_from_copying() {
    let (a, b) = (normal(40, 100, 24), normal(41, 100, 24));
    let common = normal(42, 60, 24);
    let near = |seed, to: &Array2<f64>| to + &(normal(seed, to.nrows(), 24) * 0.1);
    let compare = |x: &Array2<f64>, y: &Array2<f64>| {
        let half = |generated, train| Half { generated, train };
        agreement(half(x.view(), a.view()), half(y.view(), b.view()), 0.9, 0).unwrap()
    };
    let general = compare(&near(43, &common), &near(44, &common));
    assert_eq!((general.reproducibility.value, general.generalization.value), (1.0, 1.0));
    assert!(general.mean_between_models.lower > general.mean_to_own_half.upper);
    let part = s![..60, ..];
    let copies = compare(&near(45, &a.slice(part).to_owned()), &near(46, &b.slice(part).to_owned()));
    assert_eq!((copies.reproducibility.value, copies.generalization.value), (0.0, 0.0));
    assert!(copies.mean_between_models.upper < copies.mean_to_own_half.lower);
    assert_eq!((copies.between_models.len(), copies.to_own_half.len()), (60, 120));
}
