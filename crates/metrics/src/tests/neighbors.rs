//! Beside prdc and torch-fidelity, and beside every pair looked at, with ties, duplicates and far from the origin.

use crate::{
    Compared, Inside, NeighborOptions, Pair, Points, Real, Set, Wanted, center, cross, neighbors_within,
};
use heldout_testkit::{Golden, close};
use ndarray::{Array2, ArrayView1, ArrayView2, s};
use tch::{Kind, Tensor};

fn matrix<T: Real + tch::kind::Element>(t: &Tensor) -> Array2<T>
where
    Vec<T>: TryFrom<Tensor, Error = tch::TchError>,
{
    let shape = (t.size()[0] as usize, t.size()[1] as usize);
    Array2::from_shape_vec(shape, Vec::<T>::try_from(t.flatten(0, -1)).unwrap()).unwrap()
}

/// The generator of the reference values.
fn lcg(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut x = seed;
    Array2::from_shape_simple_fn((rows, columns), || {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 11) as f64 / (1u64 << 53) as f64
    })
}

pub(crate) fn lcg_sets() -> [Array2<f64>; 3] {
    let train = (lcg(200, 16, 1) - 0.5) * 2.0;
    let mut generated = (lcg(150, 16, 2) - 0.5) * 1.9 + 0.05;
    generated.slice_mut(s![..20, ..]).assign(&(&train.slice(s![..20, ..]) + (lcg(20, 16, 4) - 0.5) * 0.01));
    [generated, train, (lcg(120, 16, 3) - 0.5) * 2.0]
}

fn with_pair<T: Real>(
    [generated, train]: [ArrayView2<'_, T>; 2],
    options: NeighborOptions,
    check: impl FnOnce(&Pair<'_, '_, '_, T>),
) {
    let center = center(train);
    let set = |name, rows| Set::new(name, rows, center.view(), options.nearest_k).unwrap();
    let (generated, train) = (set("generated", generated), set("train", train));
    check(&Pair::new(&generated, &train, options, &Compared::default()));
}

fn check_case<T: Real>(golden: &Golden, name: &str, sets: [ArrayView2<'_, T>; 2]) {
    let values = |key: String| Vec::<f64>::try_from(golden.get(&key).to_kind(Kind::Double)).unwrap();
    for nearest_k in [3, 5] {
        let options = NeighborOptions { nearest_k, ..NeighborOptions::default() };
        with_pair(sets, options, |pair| {
            let found = [pair.precision(), pair.recall(), pair.density(), pair.coverage()].map(|m| m.value);
            let wanted = values(format!("{name}.open{nearest_k}"));
            for (found, wanted) in found.into_iter().zip(wanted) {
                assert!((found - wanted).abs() < 1e-14, "{name}, k = {nearest_k}: {found}, prdc {wanted}");
            }
        });
        if name != "ties" {
            with_pair(sets, NeighborOptions { inside: Inside::Closed, ..options }, |pair| {
                let wanted = values(format!("{name}.closed{nearest_k}"));
                close(
                    &Tensor::from_slice(&[pair.precision().value, pair.recall().value]),
                    &Tensor::from_slice(&wanted),
                    1e-7,
                );
            });
        }
    }
    with_pair(sets, NeighborOptions::default(), |pair| {
        let carlini = pair.carlini_distances();
        let least = carlini.iter().copied().fold(f64::INFINITY, f64::min);
        let found = [
            pair.auth_pct().value,
            pair.f_mem().unwrap().value,
            pair.carlini().value,
            least,
            pair.realism().value,
        ];
        for (found, wanted) in found.into_iter().zip(values(format!("{name}.numpy"))) {
            let same = found == wanted || (found - wanted).abs() <= 1e-12 * wanted.abs();
            assert!(same, "{name}: {found}, numpy {wanted}");
        }
    });
}

#[test]
fn neighbor_metrics_are_those_of_the_peers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "neighbors");
    let [generated, train, _] = lcg_sets();
    check_case(&golden, "lcg", [generated.view(), train.view()]);
    for name in ["f64", "deficient"] {
        let [generated, train] =
            ["generated", "train"].map(|s| matrix::<f64>(&golden.get(&format!("{name}.{s}"))));
        check_case(&golden, name, [generated.view(), train.view()]);
    }
    for name in ["f32", "ties"] {
        let [generated, train] =
            ["generated", "train"].map(|s| matrix::<f32>(&golden.get(&format!("{name}.{s}"))));
        check_case(&golden, name, [generated.view(), train.view()]);
    }
}

/// The published reference values.
#[test]
fn neighbor_metrics_have_the_reference_values() {
    let [generated, train, _] = lcg_sets();
    assert_eq!(train[(0, 0)], -0.153_581_658_254_573_48);
    with_pair([generated.view(), train.view()], NeighborOptions::default(), |pair| {
        let near = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-10, "{found}, not {wanted}");
        near(pair.precision().value, 0.986_666_666_7);
        near(pair.recall().value, 0.895);
        near(pair.density().value, 1.242_666_666_7);
        near(pair.coverage().value, 0.98);
        near(pair.auth_pct().value, 41.333_333_333_3);
        near(pair.f_mem().unwrap().value, 0.133_333_333_3);
        near(pair.carlini().value, 0.133_333_333_3);
    });
}

fn squared(a: ArrayView1<'_, f32>, b: ArrayView1<'_, f32>) -> f64 {
    a.iter().zip(b).map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum()
}

/// Every pair, for more rows than a tile has; squared distances of whole numbers are the same in every order of summation.
fn check_all_pairs(queries: &Array2<f32>, references: &Array2<f32>) {
    let sorted = |row: ArrayView1<'_, f32>, skip: Option<usize>| {
        let all = references.outer_iter().enumerate().filter(|(i, _)| Some(*i) != skip);
        let mut all: Vec<_> = all.map(|(i, r)| (squared(row, r), i as u32)).collect();
        all.sort_by(|a, b| a.partial_cmp(b).unwrap());
        all
    };
    let center = center(references.view());
    let points = |rows| Points::new("rows", rows, center.view()).unwrap();
    let (q, r) = (points(queries.view()), points(references.view()));
    let within = neighbors_within(&r, 4);
    for (i, row) in references.outer_iter().enumerate() {
        assert_eq!(within.row(i), &sorted(row, Some(i))[..4], "row {i}");
    }
    let reference_radii = within.squared_radii(4);
    let query_radii: Vec<f64> =
        (0..queries.nrows()).map(|i| reference_radii[i % reference_radii.len()]).collect();
    for inside in [Inside::Open, Inside::Closed] {
        let radii = Some([query_radii.as_slice(), reference_radii.as_slice()]);
        let found = cross(&q, &r, Wanted { k: 3, radii, inside });
        let balls = found.balls.unwrap();
        let (mut covered, mut recalled) = (vec![false; references.nrows()], vec![false; references.nrows()]);
        for (i, row) in queries.outer_iter().enumerate() {
            let all = sorted(row, None);
            assert_eq!(found.nearest.row(i), &all[..3], "query {i}");
            let holds = |d: f64, r: f64| if inside == Inside::Open { d < r } else { d <= r };
            let mut held_by = 0;
            for (d, j) in all {
                held_by += u32::from(holds(d, reference_radii[j as usize]));
                covered[j as usize] |= holds(d, reference_radii[j as usize]);
                recalled[j as usize] |= holds(d, query_radii[i]);
            }
            assert_eq!(balls.held_by[i], held_by, "query {i}");
        }
        assert_eq!((balls.covered, balls.recalled), (covered, recalled));
    }
}

#[test]
fn every_pair_is_seen() {
    let whole = |rows, seed, levels: f64, offset: f64| {
        lcg(rows, 9, seed).mapv(|x| ((x * levels).floor() + offset) as f32)
    };
    // Few levels: most distances tie, and many rows are equal.
    check_all_pairs(&whole(700, 5, 3.0, 0.0), &whole(1100, 6, 3.0, 0.0));
    // Differences that products in f32 cannot tell from 0.
    check_all_pairs(&whole(530, 7, 40.0, 65_536.0), &whole(600, 8, 40.0, 65_536.0));
    // One point, many times.
    check_all_pairs(&whole(5, 9, 1.0, 2.0), &whole(600, 10, 1.0, 2.0));
}

#[test]
fn too_large_and_too_small_for_f32_is_exact_all_the_same() {
    for scale in [1e30, 1e-30] {
        let [generated, train, _] = lcg_sets().map(|s| s * scale);
        with_pair([generated.view(), train.view()], NeighborOptions::default(), |pair| {
            assert!((pair.precision().value - 148.0 / 150.0).abs() < 1e-12 && pair.coverage().value == 0.98);
        });
    }
}

#[test]
fn sets_that_cannot_be_compared_are_named() {
    let [generated, _, _] = lcg_sets();
    let center = center(generated.view());
    let error =
        |rows: ArrayView2<'_, f64>| Set::new("train", rows, center.view(), 5).unwrap_err().to_string();
    assert_eq!(error(generated.slice(s![..5, ..])), "train: 5 distinct rows where at least 6 are needed");
    assert_eq!(error(generated.slice(s![.., ..5])), "train: rows of 5 numbers where 16 are needed");
    let mut bad = generated;
    bad[(140, 3)] = f64::INFINITY;
    assert_eq!(error(bad.view()), "train: row 140 has a value that is not finite");
}
