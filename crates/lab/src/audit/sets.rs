//! The three folders of an audit, gone through once: features and small pixels of what is asked about, and a search through
//! the training images of which none is kept.

use super::AuditRequest;
use super::seen::{Collected, OfBatch, Seen};
use anyhow::{Context, Result};
use heldout_core::{Error, FeatureExtractor};
use heldout_data::{ImageBatch, ImageStream, StreamOptions};
use heldout_features::{PIXELS, Resize, resize, rgb};
use heldout_metrics::{Moments, NearestPairs, TransformedSearch, rows};
use ndarray::{Array2, ArrayView2, Axis};
use std::collections::BTreeSet;
use std::path::Path;
use tch::{Device, Tensor};

/// Training images that are searched at a time.
const SEARCHED: usize = 4096;
/// Features with their place whose covariance is made.
const WIDEST: usize = 4096;
/// Held-out images without which there is no floor.
const FEWEST: usize = 6;
/// Images that stand for held-out ones where none are given, at most, and their share of the training images.
const STAND_INS: usize = 1000;
const STAND_IN_SHARE: f64 = 0.1;

/// The streams of an audit.
pub(super) struct Streams {
    pub(super) generated: ImageStream,
    pub(super) train: ImageStream,
    /// `None`: training images stand for held-out ones.
    pub(super) held_out: Option<ImageStream>,
}

/// What the audit needs of the folders.
pub(super) struct Sets {
    pub(super) streams: Streams,
    pub(super) generated: Seen,
    /// Without the stand-ins.
    pub(super) train: Seen,
    /// Of the features with their place of the training images, where the network has them.
    pub(super) train_moments: Option<Moments>,
    /// Held-out images, or what stands for them.
    pub(super) floor: Seen,
    pub(super) pairs: NearestPairs,
    pub(super) floor_pairs: NearestPairs,
    /// Of the images of the floor, those that equal a training image.
    pub(super) leak: Leak,
    /// `[C, H, W]` of the pixels that were compared.
    pub(super) compared: [usize; 3],
}

impl Sets {
    /// Where the images of the floor are.
    pub(super) fn floor_stream(&self) -> &ImageStream {
        self.streams.held_out.as_ref().unwrap_or(&self.streams.train)
    }

    /// Classes of the images of the floor, where they have labels.
    pub(super) fn floor_classes(&self) -> Option<BTreeSet<String>> {
        let stream = self.floor_stream();
        let all = stream.labels.as_ref()?;
        Some(self.floor.index.iter().map(|i| class_name(stream, all[*i])).collect())
    }

    /// Class of each training image of `train`.
    pub(super) fn labels(&self) -> Option<Vec<i64>> {
        let all = self.streams.train.labels.as_ref()?;
        Some(self.train.index.iter().map(|i| all[*i]).collect())
    }
}

/// The name of a class of a stream, or its number.
pub(super) fn class_name(stream: &ImageStream, label: i64) -> String {
    let named = usize::try_from(label).ok().and_then(|label| stream.classes.get(label));
    named.cloned().unwrap_or_else(|| label.to_string())
}

/// Images that should not have been trained on, and equal a training image over flips and shifts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leak {
    pub(super) count: usize,
    pub(super) of: usize,
    /// Whether they were left out of the floor: not where they are most of it.
    pub(super) left_out: bool,
}

/// How a network sees, and how large pixels are compared.
struct Eye<'a> {
    network: &'a dyn FeatureExtractor,
    compared: [usize; 3],
    device: Device,
}

impl Eye<'_> {
    /// What the network says of a batch, and its pixels as they are compared. The network of pixels sees those, too: the
    /// squares of all pixels of large images are no features, and fill the memory.
    fn see(&self, batch: ImageBatch) -> Result<OfBatch> {
        let images = (batch.tensor(self.device) + 1.0) / 2.0;
        let small = self.small(&images)?;
        let pixels = rows(&small)?;
        let shown = if self.network.name() == PIXELS { small } else { images };
        let found = tch::no_grad(|| self.network.extract(&rgb(&shown)?))?;
        let optional = |t: &Option<Tensor>| t.as_ref().map(rows).transpose();
        let (logits, spatial) = (optional(&found.logits)?, optional(&found.spatial)?);
        let spatial = spatial.filter(|s| s.ncols() <= WIDEST);
        Ok(OfBatch { index: batch.index, features: rows(&found.features)?, logits, spatial, pixels })
    }

    fn small(&self, images: &Tensor) -> Result<Tensor> {
        let [channels, height, width] = self.compared.map(|n| n as i64);
        let images = if channels == 3 { rgb(images)? } else { images.shallow_clone() };
        Ok(resize(&images, [height, width], Resize::Bilinear)?)
    }
}

fn open(
    name: &str,
    path: &Path,
    size: Option<[usize; 2]>,
    request: &AuditRequest<'_>,
) -> Result<ImageStream> {
    let options = StreamOptions {
        size,
        range: request.range,
        batch_size: request.batch_size,
        ..StreamOptions::default()
    };
    ImageStream::open(path, options).with_context(|| format!("--{name}"))
}

/// All of a set, with its small pixels.
fn see(stream: &mut ImageStream, eye: &Eye<'_>) -> Result<(Seen, Array2<f32>)> {
    let (mut seen, mut pixels) = (Collected::of(stream.len()), Collected::pixels(stream.len()));
    while let Some(batch) = stream.next().transpose()? {
        let batch = eye.see(batch)?;
        (0..batch.index.len()).for_each(|i| seen.add(&batch, i));
        pixels.extend(&batch.pixels);
    }
    Ok((seen.finish()?, pixels.finish()?))
}

/// Opens the folders and goes through them.
pub(super) fn see_all(request: &AuditRequest<'_>, network: &dyn FeatureExtractor) -> Result<Sets> {
    let mut train = open("train", request.train, None, request)?;
    let size = [train.shape[1], train.shape[2]];
    let mut generated = open("generated", request.generated, Some(size), request)?;
    let mut held_out =
        request.held_out.map(|path| open("held-out", path, Some(size), request)).transpose()?;
    let channels =
        [Some(&train), Some(&generated), held_out.as_ref()].into_iter().flatten().map(|s| s.shape[0]).max();
    let side = size[0].max(size[1]) as f64;
    let shrink = (request.compared_side as f64 / side).min(1.0);
    let [height, width] = size.map(|n| ((n as f64 * shrink).round() as usize).max(1));
    let eye = Eye { network, compared: [channels.unwrap_or(3), height, width], device: request.device };

    let (seen_generated, generated_pixels) = see(&mut generated, &eye)?;
    let (seen_held_out, floor_pixels, stand_ins) = match &mut held_out {
        Some(stream) => {
            let (seen, pixels) = see(stream, &eye)?;
            (Some(seen), pixels, Vec::new())
        }
        None => {
            let (pixels, index) = stand_ins(&mut train, &eye)?;
            (None, pixels, index)
        }
    };

    let searches = Searches::new([&generated_pixels, &floor_pixels], eye.compared)?;
    let of_train = see_train(&mut train, &eye, searches, &stand_ins)?;
    let [pairs, floor_pairs] = of_train.pairs;
    let floor = seen_held_out.map_or(of_train.set_aside, Ok)?;
    let (floor, floor_pairs, leak) = without_leak(floor, floor_pairs);
    Ok(Sets {
        streams: Streams { generated, train, held_out },
        generated: seen_generated,
        train: of_train.seen,
        train_moments: of_train.moments,
        floor,
        pairs,
        floor_pairs,
        leak,
        compared: eye.compared,
    })
}

/// What was seen of the training images.
struct OfTrain {
    seen: Seen,
    set_aside: Result<Seen>,
    moments: Option<Moments>,
    pairs: [NearestPairs; 2],
}

/// Goes through the training images, of which those of `stand_ins` are set aside.
fn see_train(
    train: &mut ImageStream,
    eye: &Eye<'_>,
    mut searches: Searches<'_>,
    stand_ins: &[usize],
) -> Result<OfTrain> {
    let (mut kept, mut set_aside) = (Collected::of(train.len()), Collected::of(stand_ins.len()));
    let mut moments: Option<Moments> = None;
    train.rewind();
    while let Some(batch) = train.next().transpose()? {
        let mut batch = eye.see(batch)?;
        let is_aside = |i: &usize| stand_ins.binary_search(&batch.index[*i]).is_ok();
        let (aside, rest): (Vec<usize>, Vec<usize>) = (0..batch.index.len()).partition(is_aside);
        for (i, index) in batch.index.iter().enumerate() {
            searches.add(*index, &batch.pixels, i, aside.contains(&i))?;
        }
        aside.iter().for_each(|i| set_aside.add(&batch, *i));
        // Of these nobody asks for classes, and the covariance alone of what has its place.
        batch.logits = None;
        if let Some(spatial) = batch.spatial.take() {
            let moments = moments.get_or_insert_with(|| Moments::new(spatial.ncols()));
            moments.add("train", spatial.select(Axis(0), &rest).view()).map_err(Error::from)?;
        }
        rest.iter().for_each(|i| kept.add(&batch, *i));
    }
    Ok(OfTrain { seen: kept.finish()?, set_aside: set_aside.finish(), moments, pairs: searches.finish()? })
}

/// Searches of samples and of the floor through the training images, some thousands at a time.
struct Searches<'q> {
    all: TransformedSearch<'q, f32>,
    /// Not through those that are set aside.
    floor: TransformedSearch<'q, f32>,
    width: usize,
    index: Vec<usize>,
    pixels: Vec<f32>,
    rest: Vec<usize>,
}

impl<'q> Searches<'q> {
    fn new([generated, floor]: [&'q Array2<f32>; 2], shape: [usize; 3]) -> Result<Self> {
        let search = |queries: &'q Array2<f32>| TransformedSearch::new(queries.view(), shape);
        let (all, floor) = (search(generated)?, search(floor)?);
        let width = generated.ncols();
        Ok(Self { all, floor, width, index: Vec::new(), pixels: Vec::new(), rest: Vec::new() })
    }

    fn add(&mut self, index: usize, pixels: &Array2<f32>, row: usize, aside: bool) -> Result<()> {
        if !aside {
            self.rest.push(self.index.len());
        }
        self.index.push(index);
        self.pixels.extend(pixels.row(row));
        if self.index.len() == SEARCHED { self.search() } else { Ok(()) }
    }

    fn search(&mut self) -> Result<()> {
        let rows = ArrayView2::from_shape((self.index.len(), self.width), &self.pixels)?;
        self.all.add(&self.index, rows)?;
        if self.rest.len() == self.index.len() {
            self.floor.add(&self.index, rows)?;
        } else {
            let index: Vec<usize> = self.rest.iter().map(|i| self.index[*i]).collect();
            self.floor.add(&index, rows.select(Axis(0), &self.rest).view())?;
        }
        self.index.clear();
        self.pixels.clear();
        self.rest.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<[NearestPairs; 2]> {
        if !self.index.is_empty() {
            self.search()?;
        }
        Ok([self.all.finish()?, self.floor.finish()?])
    }
}

/// The floor without images that are training images themselves, unless these are more than half of it.
fn without_leak(floor: Seen, pairs: NearestPairs) -> (Seen, NearestPairs, Leak) {
    let of = pairs.nearest.len();
    let others: Vec<usize> = (0..of).filter(|i| pairs.nearest_distance[*i] > 0.0).collect();
    let count = of - others.len();
    let left_out = count > 0 && others.len() >= FEWEST && 2 * others.len() >= of;
    let leak = Leak { count, of, left_out };
    if !left_out {
        return (floor, pairs, leak);
    }
    let place = |all: &[usize]| others.iter().map(|i| all[*i]).collect();
    let distance = |all: &[f64]| others.iter().map(|i| all[*i]).collect();
    let pairs = NearestPairs {
        nearest: place(&pairs.nearest),
        second: place(&pairs.second),
        nearest_distance: distance(&pairs.nearest_distance),
        second_distance: distance(&pairs.second_distance),
    };
    (floor.select(&others), pairs, leak)
}

/// Small pixels and indices of the training images that stand for held-out ones: a tenth of them, by their content, so that
/// the choice does not hang on the order of the files.
fn stand_ins(train: &mut ImageStream, eye: &Eye<'_>) -> Result<(Array2<f32>, Vec<usize>)> {
    let share = STAND_IN_SHARE.min(STAND_INS as f64 / train.len() as f64);
    let chosen = |content: &[u8; 32]| {
        let head = content.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head));
        (head as f64) < share * u64::MAX as f64
    };
    let (mut pixels, mut index) = (Collected::pixels(STAND_INS), Vec::new());
    while let Some(batch) = train.next().transpose()? {
        let places: Vec<usize> = (0..batch.index.len()).filter(|i| chosen(&batch.content[*i])).collect();
        if !places.is_empty() {
            let images = (batch.tensor(eye.device) + 1.0) / 2.0;
            pixels.extend(&rows(&eye.small(&images)?)?.select(Axis(0), &places));
            index.extend(places.iter().map(|i| batch.index[*i]));
        }
    }
    if index.len() < FEWEST {
        let reason = format!(
            "none, and {} training images are too few to set a tenth of them aside: name a folder of real images that were \
             not trained on",
            train.len()
        );
        return Err(Error::config("--held-out", reason).into());
    }
    Ok((pixels.finish()?, index))
}
