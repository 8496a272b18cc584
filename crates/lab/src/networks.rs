//! Feature networks by name, with what lies in the cache and what a data set offers.

use anyhow::Result;
use heldout_core::FeatureExtractor;
use heldout_data::{ImageStream, StreamOptions, cache_folder};
use heldout_features::{DataSet, FeaturesConfig, Labelled, Resources};
use std::path::Path;
use tch::{Device, Tensor};

/// Images that a classifier is trained on, at most, and their share that its accuracy is taken on.
const TRAINED_ON: usize = 20_000;
const TESTED_SHARE: usize = 5;

/// Loads a network, or trains a classifier on labelled data.
pub(crate) fn build(
    config: &FeaturesConfig,
    labelled: Option<DataSet<'_>>,
    device: Device,
) -> heldout_core::Result<Box<dyn FeatureExtractor>> {
    let networks = cache_folder().map(|c| c.join("networks"));
    config.build(Resources { networks: networks.as_deref(), labelled, device })
}

/// Loads a network, or trains a classifier on the labelled images of `train`.
pub fn network(config: &FeaturesConfig, train: &Path, device: Device) -> Result<Box<dyn FeatureExtractor>> {
    if !matches!(config, FeaturesConfig::Classifier(_)) {
        return Ok(build(config, None, device)?);
    }
    let mut stream = ImageStream::open(train, StreamOptions::default())?;
    let Some(labels) = stream.labels.clone() else { return Ok(build(config, None, device)?) };
    // Evenly over the set, which may be sorted by class; every fifth of those is tested on.
    let step = stream.len().div_ceil(TRAINED_ON);
    let mut parts = [(Vec::new(), Vec::new()), (Vec::new(), Vec::new())];
    let mut n = 0usize;
    while let Some(batch) = stream.next().transpose()? {
        let mut rows: [Vec<i64>; 2] = Default::default();
        for i in (0..batch.index.len()).filter(|i| batch.index[*i] % step == 0) {
            let tested = usize::from(n.is_multiple_of(TESTED_SHARE));
            rows[tested].push(i as i64);
            parts[tested].1.push(labels[batch.index[i]]);
            n += 1;
        }
        let bytes = batch.bytes();
        for (part, rows) in parts.iter_mut().zip(rows).filter(|(_, rows)| !rows.is_empty()) {
            part.0.push(bytes.index_select(0, &Tensor::from_slice(&rows)));
        }
    }
    let [(train_images, train_labels), (test_images, test_labels)] = parts;
    // What a part came in goes before the next is put together.
    let whole = |images: Vec<Tensor>, labels: Vec<i64>| -> heldout_core::Result<[Tensor; 2]> {
        Ok([Tensor::f_cat(&images, 0)?, Tensor::from_slice(&labels)])
    };
    let [train_images, train_labels] = whole(train_images, train_labels)?;
    let [test_images, test_labels] = whole(test_images, test_labels)?;
    let name = stream.name.clone();
    let labelled = DataSet {
        name: &name,
        train: Labelled { images: &train_images, labels: &train_labels },
        held_out: Labelled { images: &test_images, labels: &test_labels },
    };
    Ok(build(config, Some(labelled), device)?)
}
