//! CLIP's two towers and its tokens; Radford et al. 2021.

mod config;
mod text;
mod tokenizer;
mod vision;

pub use text::{ClipText, TextOutput};
pub use tokenizer::{ClipTokenizer, Tokens, Truncation};
pub use vision::ClipVision;

use crate::encoder::{EncoderShape, Names, count};
use config::TowerConfig;
use heldout_core::{Error, Result};
use heldout_weights::{Shapes, WeightFiles};

/// The sizes of a tower, as its tensors under `prefix` and its configuration tell.
fn encoder_shape(
    files: &WeightFiles,
    shapes: &Shapes,
    prefix: &str,
    config: &TowerConfig,
) -> Result<EncoderShape> {
    let layer = |i: usize, part: &str| format!("{prefix}encoder.layers.{i}.{part}");
    let fc1 = layer(0, "mlp.fc1.weight");
    let Some([inner, width]) = shapes.get(&fc1).and_then(|s| <[i64; 2]>::try_from(s.as_slice()).ok()) else {
        return Err(Error::file(files.path(), format!("{fc1}: is not there: not this tower of a CLIP")));
    };
    let heads = config.num_attention_heads;
    if heads < 1 || width % heads != 0 {
        let reason = format!("config.json: {heads} heads of a width of {width}: they do not divide it");
        return Err(Error::file(files.path(), reason));
    }
    Ok(EncoderShape {
        width,
        depth: count(shapes, |i| layer(i, "mlp.fc1.weight")),
        heads,
        inner,
        feed_forward: config.hidden_act.feed_forward(),
        eps: config.layer_norm_eps,
        layer_scale: false,
    })
}

/// The tensors of the blocks.
fn encoder_names(names: &mut Names<'_>, prefix: &str, depth: usize) {
    const LAYERS: [(&str, &str); 8] = [
        ("norm1", "layer_norm1"),
        ("norm2", "layer_norm2"),
        ("attn.to_q", "self_attn.q_proj"),
        ("attn.to_k", "self_attn.k_proj"),
        ("attn.to_v", "self_attn.v_proj"),
        ("attn.to_out.0", "self_attn.out_proj"),
        ("ff.net.0.proj", "mlp.fc1"),
        ("ff.net.2", "mlp.fc2"),
    ];
    for i in 0..depth {
        for (ours, theirs) in LAYERS {
            names.layer(&format!("blocks.{i}.{ours}"), &format!("{prefix}encoder.layers.{i}.{theirs}"));
        }
    }
}

/// What stands in front of a tower's names: a whole model's, or nothing where the file is the tower alone.
fn prefix<'a>(shapes: &Shapes, whole: &'a str) -> &'a str {
    if shapes.keys().any(|name| name.starts_with(whole)) { whole } else { "" }
}
