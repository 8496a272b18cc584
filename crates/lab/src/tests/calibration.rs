//! Metrics on real images whose story is known: which see it, and which are blind.

use heldout_data::ImageSet;
use heldout_features::FeaturesConfig;
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

fn stories(network: FeaturesConfig) -> Stories {
    let path = crate::project_root().join("datasets/fashion-mnist-16");
    let set = ImageSet::open(&path).unwrap();
    let labels = set.labels.clone().unwrap();
    let networks = heldout_data::cache_folder().map(|c| c.join("networks"));
    let resources = heldout_features::Resources { networks: networks.as_deref(), ..Default::default() };
    let network = network.build(resources).unwrap();
    let seen = OnFeatures::new(Rc::from(network), Vec::new(), Options::default(), 64);
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
    let one = |rows: &Array2<f32>| {
        let (train, held_out) = (stories.train.view(), Some(stories.held_out.view()));
        let evaluation = Evaluation::new(rows.view(), train, held_out, options).unwrap();
        let all = evaluation.measure(&FeatureMetric::ALL).into_iter();
        all.map(|(metric, found)| (metric, found.unwrap_or_else(|e| panic!("{metric}: {e}")))).collect()
    };
    stories.sets.iter().map(|(name, rows)| (*name, one(rows))).collect()
}

#[test]
fn metrics_see_what_they_should() {
    let table = measured(&stories(FeaturesConfig::EfficientnetLite0 { path: None }));
    for metric in FeatureMetric::ALL {
        let cells = table.iter().map(|(name, found)| {
            let m = found[&metric];
            let held_out = m.against_held_out.map_or(f64::NAN, |i| i.value);
            format!("{name} {:.4} ({held_out:.4})", m.value.value)
        });
        let real = table["real"][&metric].real_vs_train.map_or(f64::NAN, |i| i.value);
        println!("{metric}: {}; floor {real:.4}", cells.collect::<Vec<_>>().join(", "));
    }
}
