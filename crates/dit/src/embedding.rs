//! Tokens from images, a condition from noise level and class, and the way back.

use crate::config::{DitConfig, FEATURES, Positions};
use heldout_core::{Cond, Error, Result};
use heldout_nn::{
    Activation, Conv2d, Embedding, LayerNorm, Linear, MlpOptions, ModulatedNorm, Rotary, TimeEmbedding,
    same_place, sin_cos_2d, to_tokens,
};
use std::cell::RefCell;
use std::rc::Rc;
use tch::{Device, Kind, Tensor, nn};

/// Where the tokens of an image are.
#[derive(Debug)]
pub(crate) enum Place {
    /// Added, `[L, C]`.
    Added(Tensor),
    /// Turned.
    Turned(Rotary),
}

/// What places depend on: the size of the grid, the kind of its numbers, where they are.
type Key = ([i64; 2], Kind, Device);

/// Images as tokens.
#[derive(Debug)]
pub(crate) struct PatchEmbedding {
    proj: Conv2d,
    positions: Positions,
    patch: i64,
    width: i64,
    head_dim: i64,
    base: i64,
    /// The places of the last tokens that were seen.
    places: RefCell<Option<(Key, Rc<Place>)>>,
}

impl PatchEmbedding {
    /// Under `vs`: `proj`.
    pub(crate) fn new(vs: &nn::Path<'_>, config: &DitConfig) -> Self {
        Self {
            proj: Conv2d::patches(&(vs / "proj"), config.in_channels, config.width, config.patch_size),
            positions: config.positions,
            patch: config.patch_size,
            width: config.width,
            head_dim: config.width / config.heads,
            base: config.sample_size / config.patch_size,
            places: RefCell::new(None),
        }
    }

    /// `[B, C, H, W] -> [B, L, width]`, and where the tokens are.
    pub(crate) fn forward(&self, x: &Tensor) -> (Tensor, Rc<Place>) {
        let size = x.size();
        let grid = [size[2] / self.patch, size[3] / self.patch];
        let tokens = to_tokens(&self.proj.forward(x));
        let place = self.place(grid, &tokens);
        match place.as_ref() {
            Place::Added(places) => (tokens + places, place),
            Place::Turned(_) => (tokens, place),
        }
    }

    fn place(&self, grid: [i64; 2], like: &Tensor) -> Rc<Place> {
        let key = (grid, like.kind(), like.device());
        if let Some((seen, place)) = self.places.borrow().as_ref()
            && *seen == key
        {
            return place.clone();
        }
        let [height, width] = grid;
        let place = Rc::new(match self.positions {
            Positions::SinCos => {
                let places = sin_cos_2d(height, width, self.base, self.width);
                Place::Added(same_place(places, like))
            }
            Positions::Rotary => Place::Turned(Rotary::grid(height, width, self.head_dim, like)),
        });
        *self.places.borrow_mut() = Some((key, place.clone()));
        place
    }
}

/// Noise level and class in one vector: `[B] -> [B, width]`.
#[derive(Debug)]
pub(crate) struct Embedder {
    time: TimeEmbedding,
    classes: Option<Embedding>,
    num_classes: i64,
    label_dropout: f64,
}

impl Embedder {
    /// `time` and `classes` are the paths of its parts.
    pub(crate) fn new(time: &nn::Path<'_>, classes: &nn::Path<'_>, config: &DitConfig) -> Self {
        let std = 0.02;
        let options = MlpOptions { std: Some(std), ..MlpOptions::default() };
        let table = Embedding::new;
        Self {
            time: TimeEmbedding::new(
                &(time / "features"),
                time,
                &config.time_embedding,
                [FEATURES, config.width],
                options,
            ),
            classes: (config.num_classes > 0)
                .then(|| table(&(classes / "embedding_table"), config.class_rows(), config.width, std)),
            num_classes: config.num_classes,
            label_dropout: config.label_dropout,
        }
    }

    /// The labels that the network sees: some are dropped in training, and none stands for the null class.
    pub(crate) fn labels(&self, cond: &Cond, rows: i64, train: bool) -> Option<Tensor> {
        let table = self.classes.as_ref()?;
        let null = self.num_classes;
        let Some(label) = &cond.label else {
            return Some(table.ids(null, rows));
        };
        if !(train && self.label_dropout > 0.0) {
            return Some(label.shallow_clone());
        }
        let dropped = Tensor::rand([rows], (Kind::Float, label.device())).lt(self.label_dropout);
        Some(label.masked_fill(&dropped, null))
    }

    /// `level` `[B]`, `labels` `[B]` of [`Embedder::labels`], to `[B, width]`.
    pub(crate) fn forward(&self, level: &Tensor, labels: Option<&Tensor>) -> Tensor {
        let time = self.time.forward(level, None);
        match (&self.classes, labels) {
            (Some(table), Some(labels)) => time + table.forward(labels),
            _ => time,
        }
    }

    /// Whether these conditions can be taken.
    pub(crate) fn check(&self, level: &Tensor, cond: &Cond) -> Result<()> {
        let rows = level.size()[0];
        self.time.check("timestep", level)?;
        let fail = |reason: String| Err(Error::config("class_labels", reason));
        for (name, condition) in &cond.fields()[1..] {
            if condition.is_some() {
                let reason = "is given, and the network was built without it: leave it out";
                return Err(Error::config(*name, reason));
            }
        }
        match (&self.classes, &cond.label) {
            (None, None) => Ok(()),
            (None, Some(_)) => fail("are given, and the network has no classes: leave them out".to_owned()),
            (Some(_), None) if self.label_dropout > 0.0 => Ok(()),
            (Some(_), None) => fail("are missing, and the network has no null class".to_owned()),
            (Some(table), Some(label)) => {
                if label.size() != [rows] || label.kind() != Kind::Int64 {
                    let (size, kind) = (label.size(), label.kind());
                    return fail(format!(
                        "are {kind:?} of shape {size:?}: one whole number for each of {rows} rows"
                    ));
                }
                let (low, high) = (label.min().int64_value(&[]), label.max().int64_value(&[]));
                let bad = if low < 0 { low } else { high };
                if low >= 0 && high < table.rows() {
                    return Ok(());
                }
                fail(format!("{bad} is not a class: they are 0 to {}", table.rows() - 1))
            }
        }
    }
}

/// Norm that follows the condition, and a linear layer to the pixels of each patch.
#[derive(Debug)]
pub(crate) struct FinalLayer {
    norm: ModulatedNorm,
    proj_out_1: Linear,
    proj_out_2: Linear,
    patch: i64,
    channels: i64,
}

impl FinalLayer {
    /// Under `vs`: `proj_out_1`, `proj_out_2`, both 0.
    pub(crate) fn new(vs: &nn::Path<'_>, config: &DitConfig) -> Self {
        let DitConfig { width, patch_size: patch, out_channels: channels, .. } = *config;
        Self {
            norm: ModulatedNorm::Layer(LayerNorm::plain(width, 1e-6)),
            proj_out_1: Linear::zero(&(vs / "proj_out_1"), width, 2 * width),
            proj_out_2: Linear::zero(&(vs / "proj_out_2"), width, patch * patch * channels),
            patch,
            channels,
        }
    }

    /// `tokens` `[B, L, width]`, `condition` `[B, width]` to `[B, C, H, W]`.
    pub(crate) fn forward(&self, tokens: &Tensor, condition: &Tensor, height: i64, width: i64) -> Tensor {
        let halves = self.proj_out_1.forward(&Activation::Silu.apply(condition)).chunk(2, 1);
        let pixels = self.proj_out_2.forward(&self.norm.forward(tokens, &halves[0], &halves[1]));
        let (rows, patch, channels) = (tokens.size()[0], self.patch, self.channels);
        let grid = pixels.view([rows, height / patch, width / patch, patch, patch, channels]);
        grid.permute([0, 5, 1, 3, 2, 4]).reshape([rows, channels, height, width])
    }
}
