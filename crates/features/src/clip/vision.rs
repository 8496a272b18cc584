//! CLIP's tower of images.

use super::config::TowerConfig;
use super::{encoder_names, encoder_shape, prefix};
use crate::encoder::{Encoder, Names};
use crate::images::{ImageInput, Resize};
use heldout_core::{Error, FeatureExtractor, FeatureOutput, Result};
use heldout_nn::{LayerNorm, Linear, to_tokens, variable};
use heldout_weights::WeightFiles;
use std::path::Path;
use tch::nn::Init;
use tch::{Device, Kind, Tensor, nn};

const HEADS: i64 = 12;

/// CLIP's vision transformer: features `[B, P]` are the projected class token, `image_embeds` of transformers, not of unit
/// length; without `visual_projection.weight` the class token behind the last norm.
///
/// Radford et al. 2021, section 2.4; weights and `config.json` in the layout of transformers' `CLIPModel`,
/// `CLIPVisionModelWithProjection` or `CLIPVisionModel`. Images are stretched to the size of the network by
/// [`Resize::Bicubic`] and normalised by CLIP's mean and deviation.
#[derive(Debug)]
pub struct ClipVision {
    name: String,
    input: ImageInput,
    /// `[D, 3, P, P]`: a convolution without a bias that cuts squares of `P` pixels.
    patch: Tensor,
    /// `[D]`.
    class: Tensor,
    /// `[1 + N, D]`.
    positions: Tensor,
    norm_in: LayerNorm,
    encoder: Encoder,
    norm_out: LayerNorm,
    projection: Option<Linear>,
    vars: nn::VarStore,
}

impl ClipVision {
    /// Opens a folder of transformers', or a safetensors file with `config.json` beside it, on `device`.
    ///
    /// # Errors
    /// The files are missing or damaged, or their tensors are others.
    pub fn open(path: &Path, device: Device) -> Result<Self> {
        let files = WeightFiles::open(path, None)?;
        let shapes = files.shapes();
        let prefix = prefix(&shapes, "vision_model.");
        let config = TowerConfig::read(&files, "vision_config", HEADS)?;
        let shape = encoder_shape(&files, &shapes, prefix, &config)?;
        let of = |name: &str| format!("{prefix}{name}");
        let fail = |name: &str| Error::file(path, format!("{name}: is not there as in a CLIP"));
        let dims = |name: &str, rank: usize| {
            shapes.get(name).filter(|s| s.len() == rank).cloned().ok_or_else(|| fail(name))
        };
        let patch_side = dims(&of("embeddings.patch_embedding.weight"), 4)?[2];
        let places = dims(&of("embeddings.position_embedding.weight"), 2)?[0];
        let grid = ((places - 1) as f64).sqrt().round() as i64;
        if grid < 1 || grid * grid != places - 1 {
            return Err(Error::file(path, format!("{} patches are no square", places - 1)));
        }
        let projected = shapes.get("visual_projection.weight").and_then(|s| s.first()).copied();
        let mut vars = nn::VarStore::new(device);
        let root = vars.root();
        let (width, zeros) = (shape.width, Init::Const(0.0));
        let norm = |name: &str| LayerNorm::new(&(&root / name), width, shape.eps);
        let patch = variable(&root, "patch", &[width, 3, patch_side, patch_side], zeros);
        let class = variable(&root, "class", &[width], zeros);
        let positions = variable(&root, "positions", &[places, width], zeros);
        let [norm_in, norm_out] = [norm("norm_in"), norm("norm_out")];
        let encoder = Encoder::new(&(&root / "blocks"), shape);
        let projection = projected.map(|to| Linear::with_bias(&(&root / "projection"), width, to, false));
        let mut names = Names::new(&files);
        names.one("patch", &of("embeddings.patch_embedding.weight"));
        names.one("class", &of("embeddings.class_embedding"));
        names.one("positions", &of("embeddings.position_embedding.weight"));
        names.layer("norm_in", &of("pre_layrnorm"));
        names.layer("norm_out", &of("post_layernorm"));
        encoder_names(&mut names, prefix, shape.depth);
        if projection.is_some() {
            names.one("projection.weight", "visual_projection.weight");
        }
        names.load(&mut vars)?;
        let side = grid * patch_side;
        let size = match (width, shape.depth) {
            (768, 12) => "B".to_owned(),
            (1024, 24) => "L".to_owned(),
            (1280, 32) => "H".to_owned(),
            (1664, 48) => "bigG".to_owned(),
            _ => format!("{width}x{}", shape.depth),
        };
        let at = if side == 224 { String::new() } else { format!("@{side}") };
        let input = ImageInput {
            size: Some(side),
            resize: Resize::Bicubic,
            mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            std: [0.268_629_54, 0.261_302_58, 0.275_777_11],
            ..ImageInput::default()
        };
        let name = format!("CLIP-ViT-{size}/{patch_side}{at}");
        Ok(Self { name, input, patch, class, positions, norm_in, encoder, norm_out, projection, vars })
    }

    /// What the network is given.
    pub fn input(&self) -> &ImageInput {
        &self.input
    }

    /// All tokens behind the last block, `[B, 1 + N, D]`, without the last norm: the class token, then the patches row by
    /// row; `last_hidden_state` of transformers.
    ///
    /// # Errors
    /// The images are of another shape or kind.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        let input = self.input.prepare(images)?.to_kind(Kind::Float).to_device(self.vars.device());
        let stride = [self.patch.size()[2]; 2];
        let patches = to_tokens(&input.f_conv2d(&self.patch, None::<Tensor>, stride, [0, 0], [1, 1], 1)?);
        let class = self.class.expand([patches.size()[0], 1, -1], false);
        let tokens = self.norm_in.forward(&(Tensor::cat(&[class, patches], 1) + &self.positions));
        let states = self.encoder.forward(&tokens, None);
        Ok(states[states.len() - 1].shallow_clone())
    }
}

impl FeatureExtractor for ClipVision {
    fn name(&self) -> &str {
        &self.name
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        let pooled = self.norm_out.forward(&self.tokens(images)?.select(1, 0));
        Ok(self.projection.as_ref().map_or(pooled.shallow_clone(), |p| p.forward(&pooled)).into())
    }
}
