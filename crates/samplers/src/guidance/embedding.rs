//! Closeness to a target embedding.

use crate::{RandomAffine, XStartScore};
use heldout_core::{Cond, FeatureExtractor, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How far two embeddings are apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingDistance {
    /// `1 - cos`.
    Cosine,
    /// `2 asin(|a - b| / 2)^2` of unit vectors: half the square of the angle; k-diffusion, CLIP guidance.
    Spherical,
}

/// Minus the distance between the embedding of a denoised image and a target, mean over random augmentations.
///
/// For images in `[-1, 1]`; grey ones are shown to the encoder as RGB.
#[derive(Debug)]
pub struct EmbeddingScore<E> {
    /// The encoder, as CLIP's of images; it must be differentiable.
    pub encoder: E,
    /// `[1, D]` for all samples, or `[B, D]`; of any length.
    pub target: Tensor,
    /// The distance.
    pub distance: EmbeddingDistance,
    /// What is done to images before they are encoded, so that no single view is fooled.
    pub augment: Option<RandomAffine>,
}

impl<E: FeatureExtractor> EmbeddingScore<E> {
    /// Whether the encoder takes images `[C, H, W]`: ask before sampling, since a score cannot fail.
    ///
    /// # Errors
    /// The encoder's.
    pub fn check(&self, image: [i64; 3]) -> Result<()> {
        let [c, h, w] = image;
        let one = Tensor::zeros([1, c, h, w], (Kind::Float, self.target.device()));
        tch::no_grad(|| self.encoder.extract(&pixels(&one))).map(|_| ())
    }
}

/// `[B, C, H, W]` in `[-1, 1]` as an encoder takes it.
fn pixels(x: &Tensor) -> Tensor {
    let pixels: Tensor = x * 0.5 + 0.5;
    if pixels.size()[1] == 1 { pixels.expand([-1, 3, -1, -1], false) } else { pixels }
}

impl<E: FeatureExtractor> XStartScore for EmbeddingScore<E> {
    /// # Panics
    /// The encoder does not take images of this shape: see [`EmbeddingScore::check`].
    fn score(&self, x_start_hat: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let pixels = pixels(x_start_hat);
        let (images, copies) = match &self.augment {
            None => (pixels, 1),
            Some(augment) => (augment.apply(&pixels, t), augment.copies),
        };
        let unit = |e: &Tensor| {
            let norm = e.square().sum_dim_intlist(1i64, true, e.kind()).sqrt();
            e / norm.clamp_min(1e-12)
        };
        let output = self.encoder.extract(&images);
        let found =
            unit(&output.unwrap_or_else(|e| panic!("the encoder of an embedding score: {e}")).features);
        let found = found.view([copies, -1, found.size()[1]]);
        let target = unit(&self.target).unsqueeze(0);
        let distance = match self.distance {
            EmbeddingDistance::Cosine => 1.0 - (found * target).sum_dim_intlist(2i64, false, Kind::Float),
            EmbeddingDistance::Spherical => {
                // The square root has no slope at 0: a distance that small is none.
                let square = (found - target).square().sum_dim_intlist(2i64, false, Kind::Float);
                (square.clamp_min(1e-12).sqrt() / 2.0).clamp_max(1.0 - 1e-6).asin().square() * 2.0
            }
        };
        -distance.mean_dim(0i64, false, Kind::Float)
    }
}
