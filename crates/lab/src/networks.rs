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
    let (mut images, mut index) = (Vec::new(), Vec::new());
    // Evenly over the set, which may be sorted by class.
    let step = stream.len().div_ceil(TRAINED_ON);
    while let Some(batch) = stream.next().transpose()? {
        let rows: Vec<i64> =
            (0..batch.index.len()).filter(|i| batch.index[*i] % step == 0).map(|i| i as i64).collect();
        images.push(batch.bytes().index_select(0, &Tensor::from_slice(&rows)));
        index.extend(rows.iter().map(|i| batch.index[*i as usize]));
    }
    let images = Tensor::cat(&images, 0);
    let labels = Tensor::from_slice(&index.iter().map(|i| labels[*i]).collect::<Vec<_>>());
    let part = |tested: bool| {
        let rows: Vec<i64> =
            (0..index.len()).filter(|i| (i % TESTED_SHARE == 0) == tested).map(|i| i as i64).collect();
        let rows = Tensor::from_slice(&rows);
        [images.index_select(0, &rows), labels.index_select(0, &rows)]
    };
    let ([train_images, train_labels], [test_images, test_labels]) = (part(false), part(true));
    let name = stream.name.clone();
    let labelled = DataSet {
        name: &name,
        train: Labelled { images: &train_images, labels: &train_labels },
        held_out: Labelled { images: &test_images, labels: &test_labels },
    };
    Ok(build(config, Some(labelled), device)?)
}
