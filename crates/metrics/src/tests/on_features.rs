//! Metrics on a network's features: their law, their names, and what is not computed twice.

use crate::{FeatureMetric, OnFeatures, Options, Subsets, TransformedSearch, title, transformed_nearest};
use heldout_core::{FeatureExtractor, FeatureOutput, FeatureSets, Measurement, Metric, Result};
use heldout_testkit::check_metric;
use ndarray::s;
use std::cell::Cell;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Pixels, with a count of the images that went through.
#[derive(Debug, Default)]
struct Counting(Cell<i64>);

impl FeatureExtractor for Counting {
    fn name(&self) -> &str {
        "counting"
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        assert_eq!(images.size()[1], 3, "grey images are repeated");
        assert!(images.min().double_value(&[]) >= 0.0 && images.max().double_value(&[]) <= 1.0);
        self.0.set(self.0.get() + images.size()[0]);
        Ok(FeatureOutput { features: images.flatten(1, -1), logits: None, spatial: None })
    }
}

#[test]
fn metrics_on_features_keep_the_law_and_look_at_images_once() {
    tch::manual_seed(12);
    let draw = |n: i64| Tensor::rand([n, 1, 4, 4], F32) * 2.0 - 1.0;
    let (generated, train, held_out) = (draw(80), draw(100), draw(200));
    let sets = FeatureSets { generated: &generated, train: &train, held_out: &held_out };
    let options = Options { kid: Subsets::Random { count: 5, size: 20, seed: 0 }, ..Options::default() };
    let network = Rc::new(Counting::default());
    let metric = || OnFeatures::new(network.clone(), FeatureMetric::USUAL.to_vec(), options, 16);
    check_metric(&metric(), &sets);

    network.0.set(0);
    let metric = metric();
    let measured = |sets: &FeatureSets<'_>| -> Vec<(String, Measurement)> {
        metric.evaluate(sets).unwrap().into_iter().map(|(name, found)| (name, found.unwrap())).collect()
    };
    let first = measured(&sets);
    assert_eq!(network.0.get(), 380, "every image once");
    assert_eq!((first[0].0.as_str(), first.len()), ("FD(counting)", FeatureMetric::USUAL.len()));
    assert_eq!(first, measured(&sets));
    metric.kernel_distance(&generated, &held_out).unwrap();
    assert_eq!(network.0.get(), 380);
    let others = draw(80);
    measured(&FeatureSets { generated: &others, ..sets });
    assert_eq!(network.0.get(), 460, "of new samples only they are looked at");

    // Samples that are all alike have no Fréchet distance, and everything else all the same.
    let alike = others.narrow(0, 0, 1).repeat([80, 1, 1, 1]);
    let found = metric.evaluate(&FeatureSets { generated: &alike, ..sets }).unwrap();
    let (names, errors): (Vec<&str>, Vec<String>) = found
        .iter()
        .filter_map(|(name, found)| Some((name.as_str(), found.as_ref().err()?.to_string())))
        .unzip();
    assert!(names.contains(&"FD(counting)") && !names.contains(&"precision(counting)"), "{names:?}");
    assert!(errors[0].starts_with("FD(counting).generated: 1 distinct rows"), "{errors:?}");
}

#[test]
fn a_metric_is_called_after_its_network() {
    assert_eq!(title(FeatureMetric::Fd, "EfficientNet-Lite0"), "FD(EfficientNet-Lite0)");
    assert_eq!(title(FeatureMetric::Fd, "Inception"), "FID");
    assert_eq!(title(FeatureMetric::Kid, "pixels"), "KID(pixels)");
}

/// References that come in parts, a duplicate in a later one, are the references as a whole.
#[test]
fn a_search_in_parts_is_the_search() {
    let all = super::random(13, 60, 30);
    let queries = super::random(14, 20, 30);
    let mut references = all.clone();
    references.row_mut(55).assign(&all.row(3));
    let whole = transformed_nearest(queries.view(), references.view(), [1, 6, 5]).unwrap();
    let mut search = TransformedSearch::new(queries.view(), [1, 6, 5]).unwrap();
    for (first, last) in [(40, 60), (0, 25), (25, 40)] {
        let index: Vec<usize> = (first..last).collect();
        search.add(&index, references.slice(s![first..last, ..])).unwrap();
    }
    let parts = search.finish().unwrap();
    assert_eq!(
        (&parts.nearest_distance, &parts.second_distance),
        (&whole.nearest_distance, &whole.second_distance)
    );
    let twin = |i: &usize| if *i == 55 { 3 } else { *i };
    assert_eq!(parts.nearest.iter().map(twin).collect::<Vec<_>>(), whole.nearest);
}
