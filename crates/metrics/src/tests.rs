//! Brute force, the definitions as numpy computes them, and known cases: the copier, fresh data, disguised copies.

mod coverage;
mod definitions;
mod neighbors;
mod on_features;
mod peers;
mod refusals;
mod transformed;

use crate::{
    Copies, CopyWatch, EmpiricalDenoiser, MEMORIZED_RATIO, MemorizedFraction, MixtureDenoiser, References,
    bootstrap_mean, energy_distance, frame_changes, motion_distance, transformed_nearest,
};
use heldout_core::{Cond, Denoiser, FeatureSets, Metric, NoiseSchedule, like};
use heldout_testkit::{Golden, TrigSchedule, check_denoiser, check_metric, close};
use ndarray::{Array2, ArrayView2, Axis, concatenate};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn array(t: &Tensor) -> Array2<f32> {
    let flat = t.flatten(1, -1).to_kind(Kind::Float).contiguous();
    let shape = (flat.size()[0] as usize, flat.size()[1] as usize);
    Array2::from_shape_vec(shape, Vec::try_from(flat.flatten(0, -1)).unwrap()).unwrap()
}

fn random(seed: i64, n: i64, d: i64) -> Array2<f32> {
    tch::manual_seed(seed);
    array(&Tensor::randn([n, d], F32))
}

fn brute_force(queries: ArrayView2<'_, f32>, references: ArrayView2<'_, f32>) -> Vec<[(f64, usize); 2]> {
    let one = |q: ndarray::ArrayView1<'_, f32>| {
        let distance = |r: ndarray::ArrayView1<'_, f32>| {
            q.iter().zip(r).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum::<f64>().sqrt()
        };
        let mut all: Vec<_> =
            references.outer_iter().map(distance).enumerate().map(|(i, d)| (d, i)).collect();
        all.sort_by(|a, b| a.partial_cmp(b).unwrap());
        [all[0], all[1]]
    };
    queries.outer_iter().map(one).collect()
}

#[track_caller]
fn check_nearest(queries: ArrayView2<'_, f32>, references: ArrayView2<'_, f32>) {
    let found = References::new(references).unwrap().nearest(queries).unwrap();
    for (q, [first, second]) in brute_force(queries, references).into_iter().enumerate() {
        // Sums in another order differ in their last bits.
        let same = |found: f64, wanted: f64| (found - wanted).abs() <= 1e-13 * wanted;
        assert!(same(found.nearest_distance[q], first.0) && found.nearest[q] == first.1, "query {q}");
        assert!(same(found.second_distance[q], second.0) && found.second[q] == second.1, "query {q}");
    }
}

/// Also where distances differ by less than what a product in f32 can tell, and far from the origin.
#[test]
fn nearest_is_brute_force() {
    let (queries, references) = (random(0, 150, 48), random(1, 400, 48));
    check_nearest(queries.view(), references.view());
    check_nearest((&queries + 1e4).view(), (&references + 1e4).view());
    let crowd = &random(2, 300, 48) * 1e-4 + references.row(0); // 300 points in a ball of 1e-3
    check_nearest(queries.view(), concatenate![Axis(0), references, crowd].view());
    check_nearest((&crowd + 1e-5).view(), crowd.view());
}

/// A duplicate in the training set must not hide its copies.
#[test]
fn duplicates_count_once() {
    let references = random(1, 50, 16);
    let twice = concatenate![Axis(0), references, references];
    let copies = &references + &(random(3, 50, 16) * 1e-3);
    let (one, two) = (References::new(references.view()).unwrap(), References::new(twice.view()).unwrap());
    let found = two.nearest(copies.view()).unwrap();
    assert_eq!(found, one.nearest(copies.view()).unwrap());
    assert!(found.memorized(MEMORIZED_RATIO).into_iter().all(|copy| copy));
}

#[test]
fn bad_sets_are_named() {
    let mut references = random(1, 50, 16);
    let prepared = References::new(references.view()).unwrap();
    let error = prepared.nearest(random(2, 3, 15).view()).unwrap_err().to_string();
    assert_eq!(error, "queries: rows of 15 numbers where 16 are needed");
    assert!(
        References::new(references.slice(ndarray::s![..1, ..]))
            .unwrap_err()
            .to_string()
            .contains("1 distinct")
    );
    references[(7, 3)] = f32::NAN;
    assert!(References::new(references.view()).unwrap_err().to_string().contains("row 7"));
}

/// Flipped and shifted copies: unseen by plain distance, found here; and the pixels are those of the transformation.
#[test]
fn disguised_copies_are_found() {
    tch::manual_seed(4);
    let shape = [2, 6, 5];
    let train = Tensor::randn([40, 2, 6, 5], F32);
    let flipped = train.flip([3]);
    let rolled = train.replication_pad2d([1, 0, 0, 1]).narrow(2, 1, 6).narrow(3, 0, 5); // one right, one up
    let references = array(&train);
    for disguised in [flipped, rolled, train.shallow_clone()] {
        let queries = array(&disguised);
        let found = transformed_nearest(queries.view(), references.view(), shape).unwrap();
        assert!(found.nearest_distance.iter().all(|d| *d == 0.0), "{:?}", found.nearest_distance);
        assert_eq!(found.nearest, (0..40).collect::<Vec<_>>());
    }
    let plain = References::new(references.view()).unwrap().nearest(array(&train.flip([3])).view()).unwrap();
    assert!(!plain.memorized(MEMORIZED_RATIO).into_iter().any(|copy| copy));
}

#[test]
fn fractions_are_those_of_numpy() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "f_mem");
    let (queries, references) = (array(&golden.get("queries")), array(&golden.get("references")));
    let found = References::new(references.view()).unwrap().nearest(queries.view()).unwrap();
    close(&Tensor::from_slice(&found.nearest_distance), &golden.get("d1"), 1e-12);
    close(&Tensor::from_slice(&found.second_distance), &golden.get("d2"), 1e-12);
    let share =
        found.memorized(MEMORIZED_RATIO).iter().filter(|m| **m).count() as f64 / queries.nrows() as f64;
    close(&Tensor::from(share), &golden.get("f_mem").squeeze(), 1e-12);
}

#[test]
fn the_metric_keeps_its_law_and_tells_copies_from_fresh_data() {
    tch::manual_seed(5);
    let draw = |n| Tensor::randn([n, 1, 4, 4], F32);
    let (train, held_out) = (draw(60), draw(80));
    let copies = train.narrow(0, 0, 30) + 0.01 * draw(30);
    let generated = Tensor::cat(&[copies, draw(10)], 0);
    let sets = FeatureSets { generated: &generated, train: &train, held_out: &held_out };
    for copies in [Copies::Exact, Copies::Transformed] {
        let metric = MemorizedFraction { copies, seed: 0 };
        check_metric(&metric, &sets);
        let m = metric.measure(&sets).unwrap();
        assert_eq!(m.model.value, 0.75, "{}", metric.name());
        assert!(m.model.lower < 0.75 && m.model.upper > 0.75 && m.floor.value < 0.05);
    }
    // Both at once, with what stays the same kept.
    let watch = CopyWatch::new(0);
    check_metric(&watch, &sets);
    for _ in 0..2 {
        for ((name, found), copies) in
            watch.evaluate(&sets).unwrap().into_iter().zip([Copies::Exact, Copies::Transformed])
        {
            let metric = MemorizedFraction { copies, seed: 0 };
            assert_eq!((name.as_str(), found.unwrap()), (metric.name(), metric.measure(&sets).unwrap()));
        }
    }
}

/// The resamples of several threads are those of one generator after the other.
#[test]
fn resamples_are_one_sequence() {
    let values: Vec<f64> = (0..37).map(|i| f64::from(i) * 0.3).collect();
    let mut rng = crate::draws::generator(5, 0);
    let mut mean = || (0..37).map(|_| values[crate::draws::below(&mut rng, 37)]).sum::<f64>() / 37.0;
    let mut means: Vec<f64> = (0..1000).map(|_| mean()).collect();
    means.sort_by(f64::total_cmp);
    let found = bootstrap_mean(&values, 5);
    assert_eq!((found.lower, found.upper), (means[25], means[974]));
}

/// On 400 simulated samples of 100 coin flips, the interval holds the truth about 95 times in 100.
#[test]
fn bootstrap_intervals_cover() {
    tch::manual_seed(6);
    let hits = (0..400).filter(|i| {
        let flips = Vec::<f64>::try_from((Tensor::rand([100], F32).lt(0.3)).to_kind(Kind::Double)).unwrap();
        let b = bootstrap_mean(&flips, *i);
        b.lower <= 0.3 && 0.3 <= b.upper
    });
    let share = hits.count() as f64 / 400.0;
    assert!((0.91..=0.98).contains(&share), "{share}");
}

/// Deterministic sampling with the closed-form denoiser of a training set gives its images back, every one a copy.
#[test]
fn the_copier_copies() {
    tch::manual_seed(7);
    let train = Tensor::rand([50, 1, 6, 6], F32) * 2.0 - 1.0;
    let denoiser = EmpiricalDenoiser::new(&train, Rc::new(TrigSchedule));
    let mut x = Tensor::randn([64, 1, 6, 6], F32);
    check_denoiser(&denoiser, &x, &Cond::default());
    let at = |t: f64| Tensor::full([64], t, (Kind::Double, Device::Cpu));
    for k in 0..50 {
        let (now, next) = (at(1.0 - k as f64 / 50.0), at(1.0 - (k + 1) as f64 / 50.0));
        let (m, n) = (TrigSchedule.marginal(&now), TrigSchedule.marginal(&next));
        let x_start_hat = denoiser.denoise(&x, &now, &Cond::default());
        let noise_hat = (&x - like(&m.alpha, &x) * &x_start_hat) / like(&m.sigma, &x);
        x = like(&n.alpha, &x) * x_start_hat + like(&n.sigma, &x) * noise_hat;
    }
    let held_out = Tensor::rand([64, 1, 6, 6], F32) * 2.0 - 1.0;
    let sets = FeatureSets { generated: &x, train: &train, held_out: &held_out };
    let m = MemorizedFraction { copies: Copies::Exact, seed: 0 }.measure(&sets).unwrap();
    assert_eq!((m.model.value, m.floor.value), (1.0, 0.0));
    let clean = denoiser.denoise(&train, &Tensor::zeros([50], (Kind::Double, Device::Cpu)), &Cond::default());
    close(&clean, &train, 0.0);
}

/// One component: the textbook Gaussian. Vanishing components: the empirical denoiser.
#[test]
fn the_mixture_has_its_two_limits() {
    tch::manual_seed(8);
    let (means, x) = (Tensor::randn([5, 1, 2, 2], F32), Tensor::randn([6, 1, 2, 2], F32));
    let t = Tensor::linspace(0.2, 0.8, 6, (Kind::Double, Device::Cpu));
    let make = |k: i64, std: f64| {
        let ones = Tensor::ones([k], (Kind::Double, Device::Cpu));
        MixtureDenoiser::new(&ones, &means.narrow(0, 0, k), &(&ones * std), Rc::new(TrigSchedule))
    };
    let m = TrigSchedule.marginal(&t);
    let gain = &m.alpha * 0.49 / (m.alpha.square() * 0.49 + m.sigma.square());
    let mean = means.narrow(0, 0, 1);
    let textbook = &mean + like(&gain, &x) * (&x - like(&m.alpha, &x) * &mean);
    close(&make(1, 0.7).denoise(&x, &t, &Cond::default()), &textbook, 1e-6);
    check_denoiser(&make(5, 0.7), &x, &Cond::default());
    let empirical = EmpiricalDenoiser::new(&means, Rc::new(TrigSchedule));
    close(
        &make(5, 1e-6).denoise(&x, &t, &Cond::default()),
        &empirical.denoise(&x, &t, &Cond::default()),
        1e-5,
    );
}

/// The mixture's denoiser is a conditional mean: no other function of `x_t` is nearer to `x_start` on average.
#[test]
fn the_mixture_denoiser_is_the_best() {
    tch::manual_seed(9);
    let n = 40_000;
    let means = Tensor::from_slice(&[-1.0, 1.0]).view([2, 1]);
    let (weights, stds) = (Tensor::from_slice(&[0.3, 0.7]), Tensor::from_slice(&[0.2, 0.5]));
    let which = weights.multinomial(n, true);
    let gaussian = |n| Tensor::randn([n, 1], (Kind::Double, Device::Cpu));
    let x_start = means.index_select(0, &which) + stds.index_select(0, &which).unsqueeze(1) * gaussian(n);
    let t = Tensor::full([n], 0.5, (Kind::Double, Device::Cpu));
    let m = TrigSchedule.marginal(&t);
    let x_t = like(&m.alpha, &x_start) * &x_start + like(&m.sigma, &x_start) * gaussian(n);
    let d = MixtureDenoiser::new(&weights, &means, &stds, Rc::new(TrigSchedule));
    let x_start_hat = d.denoise(&x_t, &t, &Cond::default());
    let loss = |x: &Tensor| (x - &x_start).square().mean(Kind::Double).double_value(&[]);
    let best = loss(&x_start_hat);
    for other in [&x_start_hat * 1.05, &x_start_hat + 0.05, &x_start_hat + 0.05 * (&x_t * 3.0).sin()] {
        assert!(loss(&other) > best);
    }
}

/// Against the definition, pair by pair, whatever the chunks; of Gaussians in one dimension it is known.
#[test]
fn the_energy_distance_is_its_definition() {
    tch::manual_seed(10);
    let (x, y) = (Tensor::randn([40, 1, 4, 4], F32), Tensor::randn([30, 1, 4, 4], F32) * 1.5 + 0.2);
    let (a, b) = (array(&x), array(&y));
    let mean = |a: &Array2<f32>, b: &Array2<f32>, pairs: usize| {
        let pair = |(p, q): (ndarray::ArrayView1<'_, f32>, ndarray::ArrayView1<'_, f32>)| {
            p.iter().zip(q).map(|(p, q)| (f64::from(*p) - f64::from(*q)).powi(2)).sum::<f64>().sqrt()
        };
        let all = a.outer_iter().flat_map(|p| b.outer_iter().map(move |q| (p, q)));
        all.map(pair).sum::<f64>() / pairs as f64
    };
    let wanted = 2.0 * mean(&a, &b, 1200) - mean(&a, &a, 40 * 39) - mean(&b, &b, 30 * 29);
    let found = energy_distance(&x, &y).unwrap();
    assert!((found - wanted).abs() < 1e-12, "{found}, by its definition {wanted}");
    assert!((found - energy_distance(&y, &x).unwrap()).abs() < 1e-12, "symmetric");
    assert!((crate::energy::in_chunks(&x, &y, 7).unwrap() - found).abs() < 1e-12, "chunks change nothing");

    // E|N(mu, 2)| = 2 / sqrt(pi) exp(-mu^2 / 4) + mu erf(mu / 2): 2 (1.39937 - 1.12838) for mu = 1.
    let (x, y) = (Tensor::randn([4000, 1], F32), Tensor::randn([4000, 1], F32) + 1.0);
    let found = energy_distance(&x, &y).unwrap();
    assert!((found - 0.5420).abs() < 0.05, "{found}");
}

/// Unbiased: of sets of one distribution its mean is 0, so that some are below.
#[test]
fn the_energy_distance_of_one_distribution_is_nothing_on_average() {
    tch::manual_seed(11);
    let one = |_| {
        let set = || Tensor::randn([24, 8], F32);
        energy_distance(&set(), &set()).unwrap()
    };
    let all: Vec<f64> = (0..400).map(one).collect();
    let mean = all.iter().sum::<f64>() / 400.0;
    let error = (all.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / 399.0 / 400.0).sqrt();
    assert!(mean.abs() < 3.0 * error && all.iter().any(|d| *d < 0.0), "{mean} +- {error}");
}

#[test]
fn the_energy_distance_refuses_what_is_no_set() {
    let x = Tensor::ones([5, 4], F32);
    let error = |y: &Tensor| energy_distance(&x, y).unwrap_err().to_string();
    assert_eq!(error(&Tensor::ones([1, 4], F32)), "y: 1 distinct rows where at least 2 are needed");
    assert_eq!(error(&Tensor::ones([5, 3], F32)), "y: rows of 3 numbers where 4 are needed");
    let bad = Tensor::ones([3, 4], F32);
    let _ = bad.get(1).fill_(f64::NAN);
    assert_eq!(error(&bad), "y: row 1 has a value that is not finite");
}

/// Channel by channel; what stands still in all frames is not seen.
#[test]
fn motion_is_what_changes_between_frames() {
    tch::manual_seed(12);
    let clips = Tensor::randn([20, 6, 2, 3], (Kind::Double, Device::Cpu));
    let changes = frame_changes(&clips, 3).unwrap();
    assert_eq!(changes.size(), [20, 4, 2, 3]);
    for (place, later) in [(0, 1), (1, 2), (2, 4), (3, 5)] {
        let wanted = clips.select(1, later) - clips.select(1, later - 1);
        assert!(changes.select(1, place).equal(&wanted), "change {place}");
    }
    let still = Tensor::randn([20, 2, 1, 2, 3], (Kind::Double, Device::Cpu)).repeat([1, 1, 3, 1, 1]);
    let other = Tensor::randn([20, 6, 2, 3], (Kind::Double, Device::Cpu));
    let found = motion_distance(&(&clips + still.flatten(1, 2)), &other, 3).unwrap();
    assert!((found - motion_distance(&clips, &other, 3).unwrap()).abs() < 1e-9, "{found}");
    for frames in [1, 4, 0, -2] {
        assert!(frame_changes(&clips, frames).unwrap_err().to_string().starts_with("frames"), "{frames}");
    }
}
