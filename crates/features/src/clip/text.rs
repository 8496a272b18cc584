//! CLIP's tower of texts.

use super::config::TowerConfig;
use super::{Tokens, encoder_names, encoder_shape, prefix};
use crate::encoder::{Encoder, Names};
use heldout_core::{Error, Result};
use heldout_nn::{Embedding, LayerNorm, Linear, mask_bias, variable};
use heldout_weights::WeightFiles;
use std::path::Path;
use tch::nn::Init;
use tch::{Device, Kind, Tensor, nn};

const HEADS: i64 = 8;
/// The end of a text in configurations from before its id was right.
const LEGACY_EOS: i64 = 2;

/// CLIP's text transformer, where each token sees those before it; the text encoder of Stable Diffusion.
///
/// Radford et al. 2021, section 2.4; weights and `config.json` in the layout of transformers' `CLIPModel`,
/// `CLIPTextModelWithProjection` or `CLIPTextModel`.
#[derive(Debug)]
pub struct ClipText {
    tokens: Embedding,
    /// `[L, D]`.
    positions: Tensor,
    encoder: Encoder,
    norm: LayerNorm,
    projection: Option<Linear>,
    eos: i64,
    vars: nn::VarStore,
}

/// What the network says of texts.
#[derive(Debug)]
pub struct TextOutput {
    /// Each token behind the last norm, `[B, L, D]`; `last_hidden_state` of transformers.
    pub last: Tensor,
    /// Each token in front of the first block and behind each, `depth + 1` of `[B, L, D]`, without the last norm; the last
    /// but one is what SDXL takes.
    pub hidden_states: Vec<Tensor>,
    /// The last norm's vector of the end of the text, `[B, D]`.
    pub pooled: Tensor,
    /// Its projection into the space of images, `[B, P]`, where the weights have one.
    pub embedding: Option<Tensor>,
}

impl ClipText {
    /// Opens a folder of transformers', or a safetensors file with `config.json` beside it, on `device`.
    ///
    /// # Errors
    /// The files are missing or damaged, or their tensors are others.
    pub fn open(path: &Path, device: Device) -> Result<Self> {
        let files = WeightFiles::open(path, None)?;
        let shapes = files.shapes();
        let prefix = prefix(&shapes, "text_model.");
        let config = TowerConfig::read(&files, "text_config", HEADS)?;
        let shape = encoder_shape(&files, &shapes, prefix, &config)?;
        let of = |name: &str| format!("{prefix}{name}");
        let rows = |name: &str| {
            let found = shapes.get(name).filter(|s| s.len() == 2).map(|s| s[0]);
            found.ok_or_else(|| Error::file(path, format!("{name}: is not there as in a CLIP")))
        };
        let (table, places) =
            (of("embeddings.token_embedding.weight"), of("embeddings.position_embedding.weight"));
        let projected = shapes.get("text_projection.weight").and_then(|s| s.first()).copied();
        let mut vars = nn::VarStore::new(device);
        let root = vars.root();
        let width = shape.width;
        let tokens = Embedding::new(&(&root / "tokens"), rows(&table)?, width, 0.02);
        let positions = variable(&root, "positions", &[rows(&places)?, width], Init::Const(0.0));
        let encoder = Encoder::new(&(&root / "blocks"), shape);
        let norm = LayerNorm::new(&(&root / "norm"), width, shape.eps);
        let projection = projected.map(|to| Linear::with_bias(&(&root / "projection"), width, to, false));
        let mut names = Names::new(&files);
        names.one("tokens.weight", &table);
        names.one("positions", &places);
        names.layer("norm", &of("final_layer_norm"));
        encoder_names(&mut names, prefix, shape.depth);
        if projection.is_some() {
            names.one("projection.weight", "text_projection.weight");
        }
        names.load(&mut vars)?;
        Ok(Self { tokens, positions, encoder, norm, projection, eos: config.eos_token_id, vars })
    }

    /// Most tokens of a text, its start and end among them.
    pub fn max_length(&self) -> i64 {
        self.positions.size()[0]
    }

    /// Of tokens `[B, L]`. Padding is seen, as by Stable Diffusion, which tells its text encoder of no mask; with
    /// `heed_mask` it is not.
    ///
    /// The vector of a text is that of its first end, `eos_token_id`; where the configuration says 2, as before
    /// transformers had the right id there, that of the largest id.
    ///
    /// # Errors
    /// More tokens than the network has places for, or an id that it does not have.
    pub fn encode(&self, tokens: &Tokens, heed_mask: bool) -> Result<TextOutput> {
        let device = self.vars.device();
        let ids = self.check(&tokens.ids)?.to_device(device);
        let length = ids.size()[1];
        let x = self.tokens.forward(&ids) + self.positions.narrow(0, 0, length);
        // Row `i` of the mask is what token `i` sees.
        let seen = Tensor::ones([length, length], (Kind::Float, device)).tril(0);
        let causal = mask_bias(&seen, &x).view([1, 1, length, length]);
        let bias = match heed_mask {
            true => causal + mask_bias(&tokens.mask.to_device(device), &x),
            false => causal,
        };
        let hidden_states = self.encoder.forward(&x, Some(&bias));
        let last = self.norm.forward(&hidden_states[hidden_states.len() - 1]);
        let ends = match self.eos {
            LEGACY_EOS => ids.argmax(1, false),
            eos => {
                let found = ids.eq(eos);
                if !bool::try_from(found.any_dim(1, false).all())? {
                    let reason =
                        format!("a text without its end, token {eos}: its vector is that of its end");
                    return Err(Error::config("tokens", reason));
                }
                found.to_kind(Kind::Int).argmax(1, false)
            }
        };
        let rows = Tensor::arange(ids.size()[0], (Kind::Int64, device));
        let pooled = last.index(&[Some(rows), Some(ends)]);
        let embedding = self.projection.as_ref().map(|p| p.forward(&pooled));
        Ok(TextOutput { last, hidden_states, pooled, embedding })
    }

    /// The tokens as they are `skip` blocks before the end, behind the last norm, `[B, L, D]`: `clip_skip` of diffusers'
    /// Stable Diffusion.
    ///
    /// # Errors
    /// There are not so many blocks.
    pub fn skipped(&self, output: &TextOutput, skip: usize) -> Result<Tensor> {
        let depth = output.hidden_states.len() - 1;
        if skip > depth {
            return Err(Error::config("clip_skip", format!("{skip}: the text encoder has {depth} blocks")));
        }
        Ok(self.norm.forward(&output.hidden_states[depth - skip]))
    }

    fn check(&self, ids: &Tensor) -> Result<Tensor> {
        let fail = |reason: String| Err(Error::config("tokens", reason));
        let size = ids.size();
        let &[rows, length] = size.as_slice() else {
            return fail(format!("{size:?}: ids are [B, L]"));
        };
        if rows < 1 || length < 1 || length > self.max_length() {
            return fail(format!("{size:?}: 1 to {} tokens a text are needed", self.max_length()));
        }
        if !matches!(ids.kind(), Kind::Int64 | Kind::Int) {
            return fail(format!("{:?}: ids are whole numbers", ids.kind()));
        }
        let (least, most) = (ids.min().int64_value(&[]), ids.max().int64_value(&[]));
        if least < 0 || most >= self.tokens.rows() {
            return fail(format!("ids {least} to {most}: the network has 0 to {}", self.tokens.rows() - 1));
        }
        Ok(ids.to_kind(Kind::Int64))
    }
}
