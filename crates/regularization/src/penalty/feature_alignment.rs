//! Representation alignment: a block's features are drawn to those of a frozen network.

use heldout_core::{Denoising, Error, Penalty, Persist, Result, Site};
use heldout_nn::{Linear, to_image, to_tokens};
use serde::{Deserialize, Serialize};
use std::{fmt, rc::Rc};
use tch::{Kind, Tensor, nn};

/// Minus the mean cosine similarity, over tokens, of a projection of the activation at `site` with a frozen network's
/// features of the clean image: `[B]`, from -1 up.
///
/// Yu et al. 2025 (REPA), Eq. 8; the projection is their MLP of three layers with SiLU, trained with the model.
/// Activations `[B, C, h, w]` or `[B, N, C]`; features `[B, D, h, w]`, `[B, N, D]` or, of the whole image, `[B, D]`,
/// with which the mean of the projected tokens is compared. The finer of two grids is averaged down to the coarser.
///
/// Law: -1 where the projection is the features times a positive number; no gradient goes to the frozen network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct FeatureAlignmentConfig {
    /// Where the activation is taken, as `"mid"` or `{ block = 3 }`.
    pub site: Site,
    /// Width of the two hidden layers of the projection.
    #[serde(default = "hidden")]
    pub hidden: i64,
    /// The frozen network, as whoever builds the penalty finds it by name.
    pub network: String,
    /// Where its features are taken; its output if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_site: Option<Site>,
}

fn hidden() -> i64 {
    256
}

impl FeatureAlignmentConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.hidden > 0 {
            return Ok(());
        }
        Err(Error::config("hidden", format!("{}: a width of at least 1 is needed", self.hidden)))
    }

    /// With a projection from `channels`, whose variables are made under `vars`.
    pub fn build(
        &self,
        vars: &nn::Path<'_>,
        channels: i64,
        frozen: FrozenFeatures,
    ) -> Result<FeatureAlignment> {
        self.check()?;
        let widths = [channels, self.hidden, self.hidden, frozen.width];
        let layers = (0..3).map(|i| Linear::new(&(vars / i), widths[i], widths[i + 1]));
        Ok(FeatureAlignment { site: self.site, layers: layers.collect(), frozen })
    }
}

/// A network that is not trained, `[B, C, H, W]` to features `[B, D, h, w]`, `[B, N, D]` or `[B, D]`.
#[derive(Clone)]
pub struct FrozenFeatures {
    width: i64,
    function: Rc<dyn Fn(&Tensor) -> Tensor>,
}

impl FrozenFeatures {
    /// `width` is `D`.
    pub fn new(width: i64, function: impl Fn(&Tensor) -> Tensor + 'static) -> Self {
        Self { width, function: Rc::new(function) }
    }

    /// The features of images.
    pub(super) fn of(&self, images: &Tensor) -> Tensor {
        (self.function)(images)
    }
}

impl fmt::Debug for FrozenFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenFeatures").field("width", &self.width).finish_non_exhaustive()
    }
}

/// The penalty of [`FeatureAlignmentConfig`]. Its projection is trained with the model and saved with the model's
/// weights.
#[derive(Debug)]
pub struct FeatureAlignment {
    site: Site,
    layers: Vec<Linear>,
    frozen: FrozenFeatures,
}

impl FeatureAlignment {
    fn project(&self, tokens: &Tensor) -> Tensor {
        let first = self.layers[..2].iter().fold(tokens.shallow_clone(), |h, layer| layer.forward(&h).silu());
        self.layers[2].forward(&first)
    }
}

/// Channels first, `[B, C, h, w]`, of square tokens; `None` for other numbers of tokens.
fn grid(x: &Tensor) -> Option<Tensor> {
    if x.dim() == 4 {
        return Some(x.shallow_clone());
    }
    let (rows, n, channels) = x.size3().ok()?;
    let side = (n as f64).sqrt().round() as i64;
    (side * side == n).then(|| to_image(x, &[rows, channels, side, side]))
}

/// `[B, N, C]` of either form.
fn tokens(x: &Tensor) -> Tensor {
    if x.dim() == 4 { to_tokens(x) } else { x.shallow_clone() }
}

/// Both as tokens of one grid.
fn on_one_grid(h: &Tensor, features: &Tensor) -> Result<(Tensor, Tensor)> {
    let (h_tokens, f_tokens) = (tokens(h), tokens(features));
    if h_tokens.size()[1] == f_tokens.size()[1] {
        return Ok((h_tokens, f_tokens));
    }
    let (Some(h), Some(f)) = (grid(h), grid(features)) else {
        let sizes = [h_tokens.size()[1], f_tokens.size()[1]];
        let reason = format!("{sizes:?} tokens of the model and the features: neither equal nor both square");
        return Err(Error::config("site", reason));
    };
    let (a, b) = (h.size(), f.size());
    let to = [a[2].min(b[2]), a[3].min(b[3])];
    Ok((to_tokens(&h.adaptive_avg_pool2d(to)), to_tokens(&f.adaptive_avg_pool2d(to))))
}

impl Persist for FeatureAlignment {}

impl Penalty<Denoising<'_>> for FeatureAlignment {
    fn name(&self) -> &'static str {
        "feature_alignment"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let h = super::tapped(view, self.site)?;
        let features = tch::no_grad(|| self.frozen.of(&view.noised.x_start)).detach();
        let (h, features) = if features.dim() == 2 {
            let projected = self.project(&tokens(h));
            (projected.mean_dim(1i64, true, projected.kind()), features.unsqueeze(1))
        } else {
            let (h, features) = on_one_grid(h, &features)?;
            (self.project(&h), features)
        };
        if h.size() != features.size() {
            let reason = format!("features {:?}, projection {:?}: they differ", features.size(), h.size());
            return Err(Error::config("feature_alignment", reason));
        }
        let float = |x: Tensor| x.to_kind(Kind::Float);
        let cosine = Tensor::cosine_similarity(&float(h), &float(features), -1, 1e-8); // [B, N]
        Ok(-cosine.mean_dim(1i64, false, Kind::Float))
    }

    fn taps(&self) -> Vec<Site> {
        vec![self.site]
    }
}
