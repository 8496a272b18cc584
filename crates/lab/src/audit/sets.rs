//! The three folders of an audit, gone through once: features and small pixels of what is asked about, and a search through
//! the training images of which none is kept.

use super::AuditRequest;
use anyhow::{Context, Result};
use heldout_core::{Error, FeatureExtractor};
use heldout_data::{ImageBatch, ImageStream, StreamOptions};
use heldout_features::{Resize, resize, rgb};
use heldout_metrics::{NearestPairs, TransformedSearch, rows};
use ndarray::{Array2, Axis, concatenate};
use std::path::Path;
use tch::{Device, Tensor};

/// Images that stand for held-out ones where none are given, at most, and their share of the training images.
const STAND_INS: usize = 1000;
const STAND_IN_SHARE: f64 = 0.1;

/// What was seen of some images.
pub(super) struct Seen {
    /// Index in the stream of each image that could be read.
    pub(super) index: Vec<usize>,
    /// `[N, D]`.
    pub(super) features: Array2<f32>,
    /// `[N, K]`, where the network has a head.
    pub(super) logits: Option<Array2<f32>>,
}

impl Seen {
    fn select(&self, places: &[usize]) -> Self {
        let select = |all: &Array2<f32>| all.select(Axis(0), places);
        let index = places.iter().map(|i| self.index[*i]).collect();
        Self { index, features: select(&self.features), logits: self.logits.as_ref().map(select) }
    }

    fn stack(parts: &[Self]) -> Result<Self> {
        let logits: Option<Vec<_>> = parts.iter().map(|p| p.logits.as_ref()).collect();
        Ok(Self {
            index: parts.iter().flat_map(|p| &p.index).copied().collect(),
            features: stack(parts.iter().map(|p| &p.features))?,
            logits: logits.map(|all| stack(all.into_iter())).transpose()?,
        })
    }
}

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
    /// Held-out images, or what stands for them.
    pub(super) floor: Seen,
    pub(super) pairs: NearestPairs,
    pub(super) floor_pairs: NearestPairs,
    /// `[C, H, W]` of the pixels that were compared.
    pub(super) compared: [usize; 3],
}

impl Sets {
    /// Where the images of the floor are.
    pub(super) fn floor_stream(&self) -> &ImageStream {
        self.streams.held_out.as_ref().unwrap_or(&self.streams.train)
    }

    /// Class of each training image of `train`.
    pub(super) fn labels(&self) -> Option<Vec<i64>> {
        let all = self.streams.train.labels.as_ref()?;
        Some(self.train.index.iter().map(|i| all[*i]).collect())
    }
}

/// How a network sees, and how large pixels are compared.
struct Eye<'a> {
    network: &'a dyn FeatureExtractor,
    compared: [usize; 3],
    device: Device,
}

impl Eye<'_> {
    /// What the network says of a batch, and its pixels `[n, C * H * W]` in `[0, 1]` as they are compared.
    fn see(&self, batch: ImageBatch) -> Result<(Seen, Array2<f32>)> {
        let images = (batch.tensor(self.device) + 1.0) / 2.0;
        let pixels = self.pixels(&images)?;
        let found = tch::no_grad(|| self.network.extract(&rgb(&images)?))?;
        let logits = found.logits.as_ref().map(rows).transpose()?;
        Ok((Seen { index: batch.index, features: rows(&found.features)?, logits }, pixels))
    }

    fn pixels(&self, images: &Tensor) -> Result<Array2<f32>> {
        let [channels, height, width] = self.compared.map(|n| n as i64);
        let images = if channels == 3 { rgb(images)? } else { images.shallow_clone() };
        Ok(rows(&resize(&images, [height, width], Resize::Bilinear)?)?)
    }
}

fn stack<'a>(parts: impl Iterator<Item = &'a Array2<f32>>) -> Result<Array2<f32>> {
    Ok(concatenate(Axis(0), &parts.map(|p| p.view()).collect::<Vec<_>>())?)
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
    let (mut seen, mut pixels) = (Vec::new(), Vec::new());
    while let Some(batch) = stream.next().transpose()? {
        let (of_batch, pixels_of_batch) = eye.see(batch)?;
        seen.push(of_batch);
        pixels.push(pixels_of_batch);
    }
    Ok((Seen::stack(&seen)?, stack(pixels.iter())?))
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

    let mut search = TransformedSearch::new(generated_pixels.view(), eye.compared)?;
    let mut floor_search = TransformedSearch::new(floor_pixels.view(), eye.compared)?;
    let (mut kept, mut set_aside) = (Vec::new(), Vec::new());
    train.rewind();
    while let Some(batch) = train.next().transpose()? {
        let (seen, pixels) = eye.see(batch)?;
        search.add(&seen.index, pixels.view())?;
        let is_aside = |i: &usize| stand_ins.binary_search(&seen.index[*i]).is_ok();
        let (aside, rest): (Vec<usize>, Vec<usize>) = (0..seen.index.len()).partition(is_aside);
        let of_rest = seen.select(&rest);
        floor_search.add(&of_rest.index, pixels.select(Axis(0), &rest).view())?;
        kept.push(of_rest);
        set_aside.push(seen.select(&aside));
    }
    Ok(Sets {
        streams: Streams { generated, train, held_out },
        generated: seen_generated,
        train: Seen::stack(&kept)?,
        floor: match seen_held_out {
            Some(seen) => seen,
            None => Seen::stack(&set_aside)?,
        },
        pairs: search.finish()?,
        floor_pairs: floor_search.finish()?,
        compared: eye.compared,
    })
}

/// Small pixels and indices of the training images that stand for held-out ones: a tenth of them, by their content, so that
/// the choice does not hang on the order of the files.
fn stand_ins(train: &mut ImageStream, eye: &Eye<'_>) -> Result<(Array2<f32>, Vec<usize>)> {
    let share = STAND_IN_SHARE.min(STAND_INS as f64 / train.len() as f64);
    let chosen = |content: &[u8; 32]| {
        let head = content.first_chunk::<8>().map_or(0, |head| u64::from_le_bytes(*head));
        (head as f64) < share * u64::MAX as f64
    };
    let (mut pixels, mut index) = (Vec::new(), Vec::new());
    while let Some(batch) = train.next().transpose()? {
        let places: Vec<usize> = (0..batch.index.len()).filter(|i| chosen(&batch.content[*i])).collect();
        if !places.is_empty() {
            let images = (batch.tensor(eye.device) + 1.0) / 2.0;
            pixels.push(eye.pixels(&images)?.select(Axis(0), &places));
            index.extend(places.iter().map(|i| batch.index[*i]));
        }
    }
    if index.len() < 6 {
        let reason = format!(
            "none, and {} training images are too few to set a tenth of them aside: name a folder of real images that were \
             not trained on",
            train.len()
        );
        return Err(Error::config("--held-out", reason).into());
    }
    Ok((stack(pixels.iter())?, index))
}
