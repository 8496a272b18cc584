//! The three folders of an audit, gone through once: features and small pixels of what is asked about, and a search through
//! the training images of which none is kept.

use super::AuditRequest;
use anyhow::{Context, Result};
use heldout_core::{Error, FeatureExtractor};
use heldout_data::{ImageBatch, ImageStream, StreamOptions};
use heldout_features::{Resize, resize};
use heldout_metrics::{NearestPairs, TransformedSearch};
use ndarray::{Array2, Axis, concatenate};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Images that stand for held-out ones where none are given, at most, and their share of the training images.
const STAND_INS: usize = 1000;
const STAND_IN_SHARE: f64 = 0.1;

/// One of the sets, gone through.
pub(super) struct Seen {
    pub(super) stream: ImageStream,
    /// Index in the stream of each image that could be read.
    pub(super) index: Vec<usize>,
    /// `[N, D]`.
    pub(super) features: Array2<f32>,
    /// `[N, K]`, where the network has a head.
    pub(super) logits: Option<Array2<f32>>,
}

/// What the audit needs of the folders.
pub(super) struct Sets {
    pub(super) generated: Seen,
    /// Without the stand-ins.
    pub(super) train: Seen,
    /// `None`: training images stand for held-out ones.
    pub(super) held_out: Option<Seen>,
    /// Features of the held-out images, or of what stands for them.
    pub(super) floor_features: Array2<f32>,
    /// As those of [`Seen`].
    pub(super) floor_logits: Option<Array2<f32>>,
    /// Places in the streams of what the floor's pairs belong to.
    pub(super) floor_index: Vec<usize>,
    pub(super) pairs: NearestPairs,
    pub(super) floor_pairs: NearestPairs,
    /// `[C, H, W]` of the pixels that were compared.
    pub(super) compared: [usize; 3],
    /// Class of each training image in `train.index`.
    pub(super) labels: Option<Vec<i64>>,
}

/// What the network says of some images.
struct Looked {
    features: Array2<f32>,
    logits: Option<Array2<f32>>,
}

impl Looked {
    fn select(&self, rows: &[usize]) -> Self {
        let select = |all: &Array2<f32>| all.select(Axis(0), rows);
        Self { features: select(&self.features), logits: self.logits.as_ref().map(select) }
    }

    fn stack(parts: &[Self]) -> Result<Self> {
        let features = stack(parts.iter().map(|p| &p.features))?;
        let logits: Option<Vec<_>> = parts.iter().map(|p| p.logits.as_ref()).collect();
        Ok(Self { features, logits: logits.map(|all| stack(all.into_iter())).transpose()? })
    }
}

/// How a network sees, and how large pixels are compared.
struct Eye<'a> {
    network: &'a dyn FeatureExtractor,
    compared: [usize; 3],
    device: Device,
}

impl Eye<'_> {
    fn features(&self, batch: &ImageBatch) -> Result<Looked> {
        let _guard = tch::no_grad_guard();
        let images = (batch.tensor(self.device) + 1.0) / 2.0;
        let rgb = if images.size()[1] == 1 { images.repeat([1, 3, 1, 1]) } else { images };
        let found = self.network.extract(&rgb)?;
        Ok(Looked {
            features: matrix(&found.features)?,
            logits: found.logits.as_ref().map(matrix).transpose()?,
        })
    }

    /// `[n, C * H * W]` in `[0, 1]`.
    fn pixels(&self, batch: &ImageBatch) -> Result<Array2<f32>> {
        let [channels, height, width] = self.compared.map(|n| n as i64);
        let images = (batch.tensor(self.device) + 1.0) / 2.0;
        let images = if images.size()[1] < channels { images.repeat([1, 3, 1, 1]) } else { images };
        let fits = images.size()[2..] == [height, width];
        matrix(&if fits { images } else { resize(&images, [height, width], Resize::Bilinear)? })
    }
}

fn matrix(t: &Tensor) -> Result<Array2<f32>> {
    let flat = t.to_device(Device::Cpu).to_kind(Kind::Float).flatten(1, -1).contiguous();
    let shape = (flat.size()[0] as usize, flat.size()[1] as usize);
    Ok(Array2::from_shape_vec(shape, Vec::try_from(flat.flatten(0, -1))?)?)
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

/// All of a set, with its features and small pixels.
fn see(mut stream: ImageStream, eye: &Eye<'_>) -> Result<(Seen, Array2<f32>)> {
    let (mut index, mut looked, mut pixels) = (Vec::new(), Vec::new(), Vec::new());
    while let Some(batch) = stream.next().transpose()? {
        looked.push(eye.features(&batch)?);
        pixels.push(eye.pixels(&batch)?);
        index.extend(batch.index);
    }
    let Looked { features, logits } = Looked::stack(&looked)?;
    Ok((Seen { stream, index, features, logits }, stack(pixels.iter())?))
}

/// Opens the folders and goes through them.
pub(super) fn see_all(request: &AuditRequest<'_>, network: &dyn FeatureExtractor) -> Result<Sets> {
    let mut train = open("train", request.train, None, request)?;
    let size = [train.shape[1], train.shape[2]];
    let generated = open("generated", request.generated, Some(size), request)?;
    let held_out = request.held_out.map(|path| open("held-out", path, Some(size), request)).transpose()?;
    let channels =
        [Some(&train), Some(&generated), held_out.as_ref()].into_iter().flatten().map(|s| s.shape[0]).max();
    let side = size[0].max(size[1]) as f64;
    let shrink = (request.compared_side as f64 / side).min(1.0);
    let [height, width] = size.map(|n| ((n as f64 * shrink).round() as usize).max(1));
    let eye = Eye { network, compared: [channels.unwrap_or(3), height, width], device: request.device };

    let (generated, generated_pixels) = see(generated, &eye)?;
    let (held_out, floor_pixels, stand_ins) = match held_out {
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
    let (mut index, mut looked, mut looked_aside) = (Vec::new(), Vec::new(), Vec::new());
    train.rewind();
    while let Some(batch) = train.next().transpose()? {
        let (pixels, seen) = (eye.pixels(&batch)?, eye.features(&batch)?);
        search.add(&batch.index, pixels.view())?;
        let is_aside = |i: &usize| stand_ins.binary_search(&batch.index[*i]).is_ok();
        let (aside, rest): (Vec<usize>, Vec<usize>) = (0..batch.index.len()).partition(is_aside);
        let kept: Vec<usize> = rest.iter().map(|i| batch.index[*i]).collect();
        floor_search.add(&kept, pixels.select(Axis(0), &rest).view())?;
        looked.push(seen.select(&rest));
        looked_aside.push(seen.select(&aside));
        index.extend(kept);
    }
    let Looked { features, .. } = Looked::stack(&looked)?;
    let train = Seen { stream: train, index, features, logits: None };
    let labels = train.stream.labels.as_ref().map(|all| train.index.iter().map(|i| all[*i]).collect());
    let (floor, floor_index) = match &held_out {
        Some(seen) => {
            (Looked { features: seen.features.clone(), logits: seen.logits.clone() }, seen.index.clone())
        }
        None => (Looked::stack(&looked_aside)?, stand_ins),
    };
    let Looked { features: floor_features, logits: floor_logits } = floor;
    let (pairs, floor_pairs) = (search.finish()?, floor_search.finish()?);
    let compared = eye.compared;
    Ok(Sets {
        generated,
        train,
        held_out,
        floor_features,
        floor_logits,
        floor_index,
        pairs,
        floor_pairs,
        compared,
        labels,
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
        let rows: Vec<usize> = (0..batch.index.len()).filter(|i| chosen(&batch.content[*i])).collect();
        if !rows.is_empty() {
            pixels.push(eye.pixels(&batch)?.select(Axis(0), &rows));
            index.extend(rows.iter().map(|i| batch.index[*i]));
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
