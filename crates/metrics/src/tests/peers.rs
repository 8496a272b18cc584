//! What the published packages say of the same features.

use crate::{
    CellLabels, FrechetReference, InceptionScore, MifidOrder, Moments, Subsets, ThreeSets, cmmd,
    data_copying_in, feature_likelihood, frechet_distance, kernel_distance, mifid, psnr, ssim, vendi_score,
};
use heldout_testkit::Golden;
use ndarray::{Array2, Array4, s};
use tch::{Kind, Tensor};

fn golden() -> Golden {
    Golden::open(env!("CARGO_MANIFEST_DIR"), "features")
}

fn matrix(g: &Golden, name: &str) -> Array2<f64> {
    let t = g.get(name);
    let shape = (t.size()[0] as usize, t.size()[1] as usize);
    Array2::from_shape_vec(shape, numbers(&t)).unwrap()
}

fn numbers(t: &Tensor) -> Vec<f64> {
    Vec::try_from(t.to_kind(Kind::Double).flatten(0, -1)).unwrap()
}

fn number(g: &Golden, name: &str) -> f64 {
    g.get(name).double_value(&[0])
}

#[track_caller]
fn near(found: f64, wanted: f64, relative: f64) {
    let off = (found - wanted).abs() / wanted.abs();
    assert!(off <= relative, "{found}, where the peer has {wanted}: off by {off:e} of it");
}

/// 1e-9 where both covariances are of full rank; the peers' own error is what is left elsewhere.
#[test]
fn frechet_distances_are_those_of_pytorch_fid_and_scipy() {
    let g = golden();
    for (name, deficient) in
        [("full", false), ("few", true), ("few_many", true), ("many_few", true), ("dead", true)]
    {
        let (x, y) = (matrix(&g, &format!("{name}.x")), matrix(&g, &format!("{name}.y")));
        let (x32, y32) = (x.mapv(|v| v as f32), y.mapv(|v| v as f32));
        let slack = if deficient { 1e-6 } else { 1e-9 };
        for peer in ["pytorch_fid", "scipy"] {
            let wanted = number(&g, &format!("{name}.{peer}"));
            let found = frechet_distance(x.view(), y.view()).unwrap();
            near(found.value, wanted, slack);
            assert_eq!(found.rank_deficient, deficient, "{name}");
            near(frechet_distance(y.view(), x.view()).unwrap().value, wanted, slack);
            let found = frechet_distance(x32.view(), y32.view()).unwrap();
            near(found.value, number(&g, &format!("{name}.f32.{peer}")), slack);
            // By moments alone, as of a set that was streamed.
            let (mx, my) = (Moments::of("x", x.view()).unwrap(), Moments::of("y", y.view()).unwrap());
            let found = FrechetReference::from_moments(&my).unwrap().distance(&mx).unwrap();
            near(found.value, wanted, slack);
            assert_eq!(found.rank_deficient, deficient, "{name} by moments");
        }
        let reference = FrechetReference::new(y.view()).unwrap();
        let with_interval = reference.interval_of(x.view()).unwrap();
        near(with_interval.interval.value, reference.distance_of(x.view()).unwrap().value, 1e-9);
        assert_eq!(with_interval.rank_deficient, deficient, "{name} with its interval");
    }
}

#[test]
fn kernel_distances_are_those_of_torch_fidelity_and_of_the_definition() {
    let g = golden();
    let (x, y) = (matrix(&g, "full.x"), matrix(&g, "full.y"));
    let same = y.slice(s![..60, ..]);
    let all = kernel_distance(x.view(), same, Subsets::All).unwrap();
    near(all.value, number(&g, "kid"), 1e-9);
    // Of whole sets every draw is the same.
    let drawn = Subsets::Random { count: 3, size: 60, seed: 5 };
    let drawn = kernel_distance(x.view(), same, drawn).unwrap();
    near(drawn.value, number(&g, "kid"), 1e-9);
    near(drawn.upper - drawn.value, all.upper - all.value, 1e-9);
    let single = kernel_distance(x.mapv(|v| v as f32).view(), same.mapv(|v| v as f32).view(), Subsets::All);
    near(single.unwrap().value, number(&g, "kid"), 1e-5);
    near(cmmd(x.view(), y.view()).unwrap().value, number(&g, "cmmd"), 1e-9);
}

#[test]
fn inception_scores_are_those_of_torch_fidelity() {
    let g = golden();
    let logits = matrix(&g, "full.x");
    let found = InceptionScore::of_logits(logits.view(), 7, None).unwrap();
    let wanted = numbers(&g.get("inception_score"));
    near(found.mean(), wanted[0], 1e-12);
    near(found.std(), wanted[1], 1e-12);
    let mut probabilities = logits.mapv(f64::exp);
    probabilities.outer_iter_mut().for_each(|mut row| row /= row.sum());
    let again = InceptionScore::of_probabilities(probabilities.view(), 7, None).unwrap();
    near(again.mean(), wanted[0], 1e-12);
    let shuffled = InceptionScore::of_logits(logits.view(), 7, Some(1)).unwrap();
    assert_ne!(shuffled.splits, found.splits);
    assert_eq!(shuffled, InceptionScore::of_logits(logits.view(), 7, Some(1)).unwrap());
}

/// With more rows than features, and with fewer.
#[test]
fn vendi_scores_are_those_of_vendi_score() {
    let g = golden();
    for name in ["full", "few"] {
        let found = vendi_score(matrix(&g, &format!("{name}.x")).view()).unwrap();
        near(found.value, number(&g, &format!("{name}.vendi")), 1e-9);
        assert!(found.lower < found.value && found.value < found.upper);
        let single = vendi_score(matrix(&g, &format!("{name}.x")).mapv(|v| v as f32).view()).unwrap();
        near(single.value, number(&g, &format!("{name}.vendi")), 1e-7);
    }
}

#[test]
fn mifid_is_that_of_torchmetrics_in_both_orders() {
    let g = golden();
    let train = matrix(&g, "full.y");
    for (set, name) in [("copies", "copies"), ("full.x", "fresh")] {
        let generated = matrix(&g, set);
        for (order, suffix) in [(MifidOrder::Train, "train"), (MifidOrder::Generated, "generated")] {
            let found = mifid(generated.view(), train.view(), order).unwrap();
            near(found.value, number(&g, &format!("{name}.mifid_{suffix}")), 1e-9);
            let counts = found.cosine_distance < 0.1;
            assert_eq!(counts, found.value > found.frechet_distance * 1.01, "{name} {suffix}");
        }
    }
}

fn labels(g: &Golden, set: &str) -> Vec<usize> {
    numbers(&g.get(&format!("labels.{set}"))).into_iter().map(|l| l as usize).collect()
}

/// Planted copies, and ties at distance 0.
#[test]
fn the_data_copying_test_is_its_definition() {
    let g = golden();
    let [generated, train, held_out] = ["generated", "train", "held_out"].map(|n| matrix(&g, n));
    let sets = ThreeSets { generated: generated.view(), train: train.view(), held_out: held_out.view() };
    let cells = CellLabels {
        generated: labels(&g, "generated"),
        train: labels(&g, "train"),
        held_out: labels(&g, "held_out"),
    };
    let found = data_copying_in(sets, &cells, 0.0).unwrap();
    near(found.interval.value, number(&g, "c_t"), 1e-9);
    // Rounding to f32 moves no rank that is no tie.
    let [x32, train32, held_out32] = [&generated, &train, &held_out].map(|x| x.mapv(|v| v as f32));
    let single = ThreeSets { generated: x32.view(), train: train32.view(), held_out: held_out32.view() };
    near(data_copying_in(single, &cells, 0.0).unwrap().interval.value, number(&g, "c_t"), 1e-9);
    // A cell whose share is the threshold itself does not count.
    let fewer = data_copying_in(sets, &cells, number(&g, "c_t.threshold")).unwrap();
    near(fewer.interval.value, number(&g, "c_t.without"), 1e-9);
    assert!(fewer.cells.iter().filter(|c| c.is_none()).count() > 0);
}

#[test]
fn the_feature_likelihood_is_its_definition() {
    let g = golden();
    let (train, held_out) = (matrix(&g, "train"), matrix(&g, "held_out"));
    for name in ["copies", "fresh"] {
        let generated = matrix(&g, &format!("fld.{name}.samples"));
        let sets = ThreeSets { generated: generated.view(), train: train.view(), held_out: held_out.view() };
        let found = feature_likelihood(sets, Some(1.3), 0).unwrap();
        near(found.divergence.value, number(&g, &format!("fld.{name}")), 1e-7);
        near(found.gap.value, number(&g, &format!("fld.{name}.gap")), 1e-7);
        assert_eq!((found.baseline_nll, found.left_out), (1.3, 0));
        // Another seed changes the order of the data alone, and with it the rounding.
        near(feature_likelihood(sets, Some(1.3), 1).unwrap().divergence.value, found.divergence.value, 1e-9);
    }
}

#[test]
fn reconstructions_are_those_of_scikit_image() {
    let g = golden();
    let [x, y] = ["images", "originals"].map(|n| {
        let t = g.get(n);
        Array4::from_shape_vec((3, 2, 20, 24), Vec::<f32>::try_from(t.flatten(0, -1)).unwrap()).unwrap()
    });
    let found = psnr(x.view(), y.view(), 1.0).unwrap();
    near(found.pooled, number(&g, "psnr.pooled"), 1e-6);
    let images = numbers(&g.get("psnr"));
    found.images.iter().zip(images).for_each(|(found, wanted)| near(*found, wanted, 1e-6));
    let interval = found.interval(0);
    let (least, most) =
        found.images.iter().fold((f64::MAX, f64::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
    assert!(least <= interval.lower && interval.lower <= found.pooled && interval.value == found.pooled);
    assert!(found.pooled <= interval.upper && interval.upper <= most, "{interval:?}");
    let found = ssim(x.view(), y.view(), 1.0).unwrap();
    found.iter().zip(numbers(&g.get("ssim"))).for_each(|(found, wanted)| near(*found, wanted, 1e-6));
    let same = ssim(x.view(), x.view(), 1.0).unwrap();
    assert!(same.iter().all(|s| (s - 1.0).abs() < 1e-12), "{same:?}");
}
