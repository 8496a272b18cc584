//! The observer that draws samples while a model trains.

use crate::arm::Arm;
use crate::assemble::{generate, guided};
use crate::networks::build;
use anyhow::Result;
use heldout_core::{FeatureExtractor, Metric, Observer, Preconditioned, stream};
use heldout_features::{DataSet, FeaturesConfig, Labelled};
use heldout_metrics::{
    CopyWatch, FeatureMetric, NeighborOptions, OnFeatures, Options, Subsets, energy_distance, title,
};
use heldout_train::{Budgeted, MemorizationMonitor, Quality, Sink};
use std::collections::BTreeSet;
use std::rc::Rc;
use tch::Tensor;

/// Held-out images of a look during training: the floor is known well enough from these.
const FLOOR_IMAGES: i64 = 256;

/// What is measured of samples besides copies: how good they are, and metrics on features where a network is named.
#[derive(Debug)]
pub(crate) struct Looks {
    seen: Option<Rc<OnFeatures>>,
    network: String,
}

impl Looks {
    /// Opens the network of the recipe, or trains it.
    pub(crate) fn open(arm: &Arm<'_>) -> Result<Self> {
        let Some(network) = network(arm)? else { return Ok(Self { seen: None, network: String::new() }) };
        let seed = arm.seed;
        let options = Options {
            neighbors: NeighborOptions { seed, ..NeighborOptions::default() },
            kid: Subsets::All,
            seed,
            ..Options::default()
        };
        let name = network.name().to_owned();
        let (metrics, batch) = (arm.recipe.monitor.metrics.clone(), arm.recipe.sample.batch_size as i64);
        let seen = OnFeatures::new(Rc::from(network), metrics, options, batch);
        Ok(Self { seen: Some(Rc::new(seen)), network: name })
    }

    /// The distance to held-out images: in the network's features, or in pixels.
    pub(crate) fn quality(&self) -> Quality {
        match self.seen.clone() {
            None => Quality::new("energy_distance", Box::new(energy_distance)),
            Some(seen) => {
                let name = title(FeatureMetric::Kid, &self.network);
                Quality::new(name, Box::new(move |generated, real| seen.kernel_distance(generated, real)))
            }
        }
    }

    /// Those of the recipe.
    pub(crate) fn metrics(&self) -> Option<Box<dyn Metric>> {
        self.seen.clone().map(|seen| Box::new(seen) as _)
    }
}

/// Draws with the initial noise of every look, and measures copies, the metrics of the recipe, and quality.
pub(crate) fn monitor(
    arm: &Arm<'_>,
    looks: &Looks,
    model: Rc<Preconditioned>,
    sink: Rc<dyn Sink>,
) -> Result<Box<dyn Observer>> {
    let config = &arm.recipe.monitor;
    let mut metrics: Vec<Box<dyn Metric>> = vec![Box::new(CopyWatch::new(arm.seed))];
    metrics.extend(looks.metrics());
    let monitor = MemorizationMonitor {
        generate: samples(arm, model)?,
        samples: config.samples,
        every: config.every,
        train: arm.train.shallow_clone(),
        held_out: arm.floor_images(FLOOR_IMAGES),
        metrics,
        quality: Some(looks.quality()),
        sink: sink.clone(),
        told: BTreeSet::new(),
    };
    Ok(match config.budget {
        Some(share) => Box::new(Budgeted::new(monitor, share, sink).map_err(|e| e.within("monitor"))?),
        None => Box::new(monitor),
    })
}

/// The feature network of the recipe, or why it cannot be had.
pub(crate) fn network(arm: &Arm<'_>) -> Result<Option<Box<dyn FeatureExtractor>>> {
    let Some(config) = &arm.recipe.monitor.features else { return Ok(None) };
    let labels = match config {
        FeaturesConfig::Classifier(_) => arm.labels(),
        _ => None,
    };
    let unit = |x: &Tensor| (x + 1.0) / 2.0;
    let images = labels.is_some().then(|| (unit(&arm.train), unit(&arm.held_out)));
    let labelled = labels.as_ref().zip(images.as_ref()).map(|(labels, (train, held_out))| DataSet {
        name: &arm.recipe.data.name,
        train: Labelled { images: train, labels: &labels[0] },
        held_out: Labelled { images: held_out, labels: &labels[1] },
    });
    Ok(Some(build(config, labelled, arm.device).map_err(|e| e.within("monitor"))?))
}

type Generate = Box<dyn Fn(usize) -> heldout_core::Result<Tensor>>;

fn samples(arm: &Arm<'_>, model: Rc<Preconditioned>) -> Result<Generate> {
    let mut config = arm.recipe.sample.clone();
    config.steps = arm.recipe.monitor.sampling_steps;
    let (space, device) = (arm.space.clone(), arm.device);
    let seed = stream(arm.seed, "monitor samples", 0, 0);
    let told = arm.sample_conditions(arm.recipe.monitor.samples)?;
    Ok(Box::new(move |n| {
        let denoiser = guided(model.as_ref(), &told, None)?;
        let samples = generate(
            denoiser.as_ref(),
            &config,
            (&space, &|range| told.of(range)),
            0..n as u64,
            seed,
            device,
        )?;
        Ok(space.to_images(&samples, config.batch_size))
    }))
}
