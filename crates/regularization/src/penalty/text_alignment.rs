//! Contrastive alignment: the estimate shows its own text, not those of the other examples.

use super::FrozenFeatures;
use heldout_core::{Denoising, Error, Penalty, Persist, Result};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// `-ln softmax_j(cos(image_i, text_j) / temperature)` at `j = i`, over the texts `j` of the batch: `[B]`, at least 0.
///
/// The image-to-text half of Radford et al. 2021, section 2.3 and Figure 3, where `image_i` is a given CLIP's embedding of
/// the estimate `x_start_hat` and `text_j` that of an example's text, [`Cond::text_embeds`](heldout_core::Cond) `[B, D]`.
/// Texts are free of noise, so that every one of the batch is a candidate for every image; the other half would choose among
/// estimates of all noise levels. Texts that are equal to an example's own are no candidates against it. The examples of a
/// batch are those that the objective is given at once: accumulation in parts leaves fewer.
///
/// Only rows with a log SNR of at least `min_log_snr` count: of a noisy image the estimate is a mean over many images, of
/// which CLIP has seen none.
///
/// Law: 0 for one example, or where all texts are equal; no gradient goes to the CLIP.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TextAlignmentConfig {
    /// The folder of a CLIP with both towers, as whoever builds the penalty finds it by name.
    pub clip: String,
    /// What cosines are divided by; the paper starts at 0.07 and learns it, down to 0.01.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// Least `ln(alpha^2 / sigma^2)` of rows that count.
    #[serde(default)]
    pub min_log_snr: f64,
}

fn temperature() -> f64 {
    0.07
}

impl TextAlignmentConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let Self { clip: _, temperature, min_log_snr } = self;
        if !(temperature.is_finite() && *temperature > 0.0) {
            let reason = format!("{temperature}: a number above 0 is needed");
            return Err(Error::config("temperature", reason));
        }
        if !min_log_snr.is_finite() {
            return Err(Error::config("min_log_snr", format!("{min_log_snr}: a finite number is needed")));
        }
        Ok(())
    }

    /// With the image tower of the CLIP: estimates `[B, C, H, W]` to embeddings `[B, D]`, differentiable.
    pub fn build(&self, images: FrozenFeatures) -> Result<TextAlignment> {
        self.check()?;
        Ok(TextAlignment { temperature: self.temperature, min_log_snr: self.min_log_snr, images })
    }
}

/// The penalty of [`TextAlignmentConfig`].
#[derive(Debug)]
pub struct TextAlignment {
    temperature: f64,
    min_log_snr: f64,
    images: FrozenFeatures,
}

/// Rows of length 1, f32.
fn unit(x: &Tensor) -> Tensor {
    let x = x.to_kind(Kind::Float);
    let norm = x.square().sum_dim_intlist(1i64, true, Kind::Float).sqrt();
    x / norm.clamp_min(1e-12)
}

impl Persist for TextAlignment {}

impl Penalty<Denoising<'_>> for TextAlignment {
    fn name(&self) -> &'static str {
        "text_alignment"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let missing = || Error::config("text_alignment", "the examples have no texts");
        let texts = unit(&view.cond.text_embeds.as_ref().ok_or_else(missing)?.detach());
        let counts = view.noised.marginal.log_snr().ge(self.min_log_snr);
        // Rows that do not count are shown clean: their estimates may be anything, and nothing is to flow through them.
        let shown = view.x_start_hat.where_self(&counts.view([-1, 1, 1, 1]), &view.noised.x_start);
        let images = unit(&self.images.of(&shown));
        if images.size() != texts.size() {
            let reason = format!("images {:?}, texts {:?}: they differ", images.size(), texts.size());
            return Err(Error::config("text_alignment", reason));
        }
        let rows = texts.size()[0];
        let same = texts.unsqueeze(0).eq_tensor(&texts.unsqueeze(1)).all_dim(-1, false); // [B, B]
        let others = same.logical_xor(&Tensor::eye(rows, (Kind::Bool, texts.device())));
        let logits = (images.matmul(&texts.tr()) / self.temperature).masked_fill(&others, f64::NEG_INFINITY);
        let loss = -logits.log_softmax(1, Kind::Float).diagonal(0, 0, 1);
        Ok(loss * counts.to_kind(Kind::Float))
    }
}
