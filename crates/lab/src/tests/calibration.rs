//! Metrics on real images whose story is known: which see it, and which are blind.

use heldout_data::ImageSet;
use heldout_features::Pixels;
use heldout_metrics::{Evaluation, FeatureMetric, Measured, OnFeatures, Options, Subsets};
use ndarray::{Array2, Axis, concatenate, s};
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Images of each set.
const N: usize = 400;

/// Sets of `N` features by their story, and the training and held-out ones.
struct Stories {
    sets: BTreeMap<&'static str, Array2<f32>>,
    train: Array2<f32>,
    held_out: Array2<f32>,
}

fn stories() -> Stories {
    let path = crate::project_root().join("datasets/fashion-mnist-16");
    let set = ImageSet::open(&path).unwrap();
    let labels = set.labels.clone().unwrap();
    let seen = OnFeatures::new(Rc::new(Pixels), Vec::new(), Options::default(), 64);
    let features = |x: &Tensor| seen.features(x).unwrap();
    let of = |index: &[usize]| set.tensor(index, Device::Cpu).unwrap();
    let range = |first: usize| (first..first + N).collect::<Vec<_>>();
    let fresh = of(&range(2 * N));
    let blurred = fresh.reflection_pad2d([1, 1, 1, 1]).avg_pool2d([3, 3], [1, 1], [0, 0], false, true, None);
    let without_a_class: Vec<usize> = (2 * N..set.len()).filter(|i| labels[*i] != 9).take(N).collect();
    tch::manual_seed(0);
    let noise = Tensor::rand([N as i64, 1, 16, 16], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
    let (train, fresh) = (features(&of(&range(0))), features(&fresh));
    let half = concatenate![Axis(0), train.slice(s![..N / 2, ..]), fresh.slice(s![N / 2.., ..])];
    let sets = BTreeMap::from([
        ("copier", train.clone()),
        ("half-copier", half),
        ("real", fresh),
        ("blurred", features(&blurred)),
        ("no boots", features(&of(&without_a_class))),
        ("noise", features(&noise)),
    ]);
    Stories { sets, train, held_out: features(&of(&range(N))) }
}

type Table = BTreeMap<&'static str, BTreeMap<FeatureMetric, Measured>>;

fn measured(stories: &Stories) -> Table {
    let options = Options { kid: Subsets::All, frechet_intervals: false, ..Options::default() };
    let held_out = Some(stories.held_out.view().into());
    let evaluation = Evaluation::new(stories.train.view(), held_out, options).unwrap();
    let one = |rows: &Array2<f32>| {
        let all = evaluation.measure(rows.view(), &FeatureMetric::ALL).unwrap().into_iter();
        all.map(|(metric, found)| (metric, found.unwrap_or_else(|e| panic!("{metric}: {e}")))).collect()
    };
    stories.sets.iter().map(|(name, rows)| (*name, one(rows))).collect()
}

/// Asserts that numbers rise.
#[track_caller]
fn rising(values: &[f64]) {
    assert!(values.windows(2).all(|w| w[0] < w[1]), "not rising: {values:?}");
}

/// What each number sees, and where it is blind, on small real images in pixels.
#[test]
fn metrics_see_what_they_should() {
    let table = measured(&stories());
    usual(&table);
    others(&table);
}

fn usual(table: &Table) {
    let value = |story: &str, metric: FeatureMetric| table[story][&metric].value.value;
    let held_out = |story: &str, metric: FeatureMetric| table[story][&metric].against_held_out.unwrap().value;
    use FeatureMetric::{AuthPct, CT, Coverage, Density, FMem, Fd, Kid, Precision, Recall, Vendi};

    // Against the training set a copier is the best of all; against held-out images it is no better than real ones.
    let all = ["copier", "half-copier", "real", "no boots", "blurred", "noise"];
    rising(&all.map(|story| value(story, Fd)));
    rising(&["real", "no boots", "blurred", "noise"].map(|story| held_out(story, Fd)));
    assert!(held_out("copier", Fd) > held_out("real", Fd));
    rising(&["real", "blurred", "noise"].map(|story| held_out(story, Kid)));

    // Copies.
    assert_eq!(["copier", "half-copier", "real"].map(|s| value(s, FMem)), [1.0, 0.5, 0.0]);
    rising(&["copier", "half-copier", "real"].map(|story| value(story, AuthPct)));
    rising(&["copier", "half-copier", "real", "noise"].map(|story| value(story, CT)));
    assert!(value("half-copier", CT) < -3.0 && value("real", CT).abs() < 3.0 && value("noise", CT) > 3.0);

    // A class that is missing, and blur, which is far from few real images but near no other.
    assert!(held_out("no boots", Coverage) < held_out("real", Coverage) - 0.05);
    assert!(held_out("blurred", Recall) < 0.5 * held_out("real", Recall));
    assert_eq!(held_out("noise", Precision), 0.0);

    // Blind: precision to a missing class; density and AuthPct, which like blur; Vendi to copies, and it likes noise.
    assert!((held_out("no boots", Precision) - held_out("real", Precision)).abs() < 0.05);
    assert!(held_out("blurred", Density) > held_out("real", Density));
    assert!(value("blurred", AuthPct) > value("real", AuthPct));
    assert!(
        (value("copier", Vendi) - value("real", Vendi)).abs() < 0.5
            && value("noise", Vendi) > value("real", Vendi)
    );
}

/// Those that are not asked for by default.
fn others(table: &Table) {
    use FeatureMetric::{Carlini, Cmmd, Fd, FdInfinity, Fld, FldGap, Mifid, Realism};
    let value = |story: &str, metric: FeatureMetric| table[story][&metric].value.value;
    let held_out = |story: &str, metric: FeatureMetric| table[story][&metric].against_held_out.unwrap().value;
    for metric in [Carlini, Cmmd, FdInfinity, Fld, FldGap, Mifid, Realism] {
        for story in ["copier", "half-copier", "real", "no boots", "blurred", "noise"] {
            let m = &table[story][&metric];
            println!(
                "{metric} {story}: {} {:?} {:?}",
                m.value.value,
                m.against_held_out.map(|x| x.value),
                m.real_vs_train.map(|x| x.value)
            );
        }
    }
    let _ = (held_out("real", Fd), value("real", Fd));
    panic!("look");
}
