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
    let mut metrics = FeatureMetric::ALL.to_vec();
    metrics.retain(|metric| *metric != FeatureMetric::FdInfinity);
    let one = |rows: &Array2<f32>| {
        let all = evaluation.measure(rows.view(), &metrics).unwrap().into_iter();
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
    let stories = stories();
    let table = measured(&stories);
    usual(&table);
    others(&table);
    at_infinity(&stories);
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
    let value = |story: &str, metric: FeatureMetric| table[story][&metric].value.value;
    let held_out = |story: &str, metric: FeatureMetric| table[story][&metric].against_held_out.unwrap().value;
    use FeatureMetric::{Carlini, Cmmd, Fld, FldGap, Mifid, Realism};

    // CMMD sees all but copies, which are the best of all against the training set.
    let all = ["copier", "half-copier", "real", "no boots", "blurred", "noise"];
    rising(&all.map(|story| value(story, Cmmd)));
    rising(&["real", "no boots", "blurred", "noise"].map(|story| held_out(story, Cmmd)));
    assert!(held_out("copier", Cmmd) > held_out("real", Cmmd));

    // Realism sees noise and blur; half a set of copies does not move its median.
    rising(&["noise", "blurred", "real"].map(|story| value(story, Realism)));
    assert!(value("copier", Realism).is_infinite());
    assert!((value("half-copier", Realism) - value("no boots", Realism)).abs() < 0.05);

    // Carlini's share rises with copies, from a floor that is not 0, since images of one class are near each other; and
    // it sees nothing else.
    rising(&["noise", "blurred", "real", "half-copier", "copier"].map(|story| value(story, Carlini)));
    assert_eq!(value("copier", Carlini), 1.0);
    assert!(table["real"][&Carlini].real_vs_train.unwrap().value > 0.1);
    assert!((value("no boots", Carlini) - value("real", Carlini)).abs() < 0.05);

    // FLD is worse for copies, a missing class, blur and noise, and of exact copies without bound; its gap sees copies
    // alone, and likes noise.
    rising(&["real", "no boots", "blurred", "noise", "copier"].map(|story| value(story, Fld)));
    assert!(value("half-copier", Fld) > value("real", Fld) && value("copier", Fld) > 1e6);
    rising(&["copier", "half-copier", "no boots", "real", "noise"].map(|story| value(story, FldGap)));
    assert!(value("half-copier", FldGap) < -100.0 && value("no boots", FldGap) > -20.0);

    // MiFID is worse where half are copies. It is blind to exact copies, whose distance of 0 it divides by almost 0, and
    // has blur for worse than noise, which is near no training image.
    rising(&["real", "half-copier", "no boots", "noise", "blurred"].map(|story| value(story, Mifid)));
    assert!(value("copier", Mifid) < value("real", Mifid));
}

/// The extrapolation to many samples, of a few sets, since it takes long.
fn at_infinity(stories: &Stories) {
    let evaluation = Evaluation::new(stories.train.view(), None, Options::default()).unwrap();
    let value = |story: &str| {
        let found = evaluation.measure(stories.sets[story].view(), &[FeatureMetric::FdInfinity]);
        found.unwrap().remove(0).1.unwrap().value.value
    };
    // As the Fréchet distance: against the training set a copier is best.
    rising(&["copier", "real", "blurred", "noise"].map(value));
}
