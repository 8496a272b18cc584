//! The layout of the original DiT (Peebles & Xie 2023) in the names of diffusers' `DiTTransformer2DModel`.
//!
//! | original | ours, and diffusers' |
//! |---|---|
//! | `x_embedder.proj` | `pos_embed.proj` |
//! | `pos_embed` | – (a function of the sizes: [`check_positions`]) |
//! | `t_embedder.mlp.0`, `.2` | timestep embedder `linear_1`, `linear_2` |
//! | `y_embedder.embedding_table.weight` | class embedder `embedding_table.weight` |
//! | `blocks.N.adaLN_modulation.1` | `transformer_blocks.N.norm1.linear` |
//! | `blocks.N.attn.qkv` `[3 C, C]` | `transformer_blocks.N.attn1.to_q`, `to_k`, `to_v` `[C, C]` |
//! | `blocks.N.attn.proj` | `transformer_blocks.N.attn1.to_out.0` |
//! | `blocks.N.mlp.fc1`, `fc2` | `transformer_blocks.N.ff.net.0.proj`, `ff.net.2` |
//! | `final_layer.adaLN_modulation.1` | `proj_out_1` |
//! | `final_layer.linear` | `proj_out_2` |
//!
//! The embedders are `time_embedder.linear_1`, .. and `class_embedder.embedding_table` where the model has them once
//! ([`Embedders::Shared`]); diffusers repeats them in each block under `transformer_blocks.N.norm1.emb`.
//!
//! Weights do not tell the frequencies of the time embedding `f_i`, `i` from 0 to 127, and the two differ: the original
//! has `10000^(-i / 128)`, diffusers' model `10000^(-i / 127)`. The original's output is had with the original's.

use crate::piece::{Collector, Shapes, as_named};
use crate::{Piece, WeightFiles};
use heldout_core::{Error, Result};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};

/// How often a model has the embedders of time and class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedders {
    /// Once, as in the paper.
    Shared,
    /// In every block, as in diffusers.
    PerBlock,
}

const TIME: [&str; 2] = ["linear_1", "linear_2"];
const TABLE: &str = "embedding_table.weight";

/// Our name, diffusers' name in a block, of every tensor of the embedders.
fn embedder_names() -> impl Iterator<Item = (String, String)> {
    let time = TIME.iter().flat_map(|l| {
        ["weight", "bias"].map(|p| (format!("time_embedder.{l}.{p}"), format!("timestep_embedder.{l}.{p}")))
    });
    time.chain([(format!("class_embedder.{TABLE}"), format!("class_embedder.{TABLE}"))])
}

/// The number of blocks, counted as the names of `prefix.0.`, `prefix.1.`, ...
fn depth(shapes: &Shapes, prefix: &str) -> usize {
    let has = |i: &usize| {
        let start = format!("{prefix}.{i}.");
        shapes.range(start.clone()..).next().is_some_and(|(name, _)| name.starts_with(&start))
    };
    (0..).take_while(has).count()
}

/// Whether these are the names of the original DiT.
pub(crate) fn is_original(shapes: &Shapes) -> bool {
    shapes.contains_key("x_embedder.proj.weight") && shapes.contains_key("blocks.0.attn.qkv.weight")
}

/// The pieces of a file in the original's layout.
///
/// # Errors
/// Tensors that the original does not have, or lacks.
pub fn from_original(shapes: &Shapes, embedders: Embedders) -> Result<Vec<Piece>> {
    let mut c = Collector::new(shapes);
    let depth = depth(shapes, "blocks");
    c.layer("pos_embed.proj", "x_embedder.proj");
    c.pass_over("pos_embed");
    let homes: Vec<(String, String)> = match embedders {
        Embedders::Shared => vec![("time_embedder".to_owned(), "class_embedder".to_owned())],
        Embedders::PerBlock => (0..depth)
            .map(|n| format!("transformer_blocks.{n}.norm1.emb"))
            .map(|emb| (format!("{emb}.timestep_embedder"), format!("{emb}.class_embedder")))
            .collect(),
    };
    for (time, class) in &homes {
        c.layer(&format!("{time}.{}", TIME[0]), "t_embedder.mlp.0");
        c.layer(&format!("{time}.{}", TIME[1]), "t_embedder.mlp.2");
        c.one(&format!("{class}.{TABLE}"), &format!("y_embedder.{TABLE}"));
    }
    for n in 0..depth {
        let (from, to) = (format!("blocks.{n}"), format!("transformer_blocks.{n}"));
        c.layer(&format!("{to}.norm1.linear"), &format!("{from}.adaLN_modulation.1"));
        c.query_key_value(&format!("{to}.attn1"), &format!("{from}.attn.qkv"), |_| 1);
        c.layer(&format!("{to}.attn1.to_out.0"), &format!("{from}.attn.proj"));
        c.layer(&format!("{to}.ff.net.0.proj"), &format!("{from}.mlp.fc1"));
        c.layer(&format!("{to}.ff.net.2"), &format!("{from}.mlp.fc2"));
    }
    c.layer("proj_out_1", "final_layer.adaLN_modulation.1");
    c.layer("proj_out_2", "final_layer.linear");
    c.finish("the original DiT")
}

/// Whether the table of positions in a file in the original's layout is the fixed one, which a model computes itself:
/// sines, then cosines, of the column in the first half of the width, and of the row in the second.
///
/// # Errors
/// It is another one, as after training it: no model with the fixed one can have these weights.
pub fn check_positions(files: &WeightFiles) -> Result<()> {
    const NAME: &str = "pos_embed";
    let table = files.read(NAME)?.to_kind(Kind::Double);
    let fail =
        |what: String| Err(Error::file(files.path(), format!("{NAME}: {what}: use a model that has it so")));
    let &[1, tokens, width] = table.size().as_slice() else {
        return fail(format!("{:?}, where [1, tokens, width] was expected", table.size()));
    };
    let side = tokens.isqrt();
    if side * side != tokens || width % 4 != 0 {
        return fail(format!(
            "{tokens} tokens of width {width} are no square with sines and cosines of both sides"
        ));
    }
    let count = width / 4;
    let f64s = (Kind::Double, Device::Cpu);
    let frequencies = (Tensor::arange(count, f64s) * (-10_000f64.ln() / count as f64)).exp();
    let angles = Tensor::arange(side, f64s).outer(&frequencies); // [side, width / 4]
    let waves = Tensor::cat(&[angles.sin(), angles.cos()], 1); // [side, width / 2]
    let (columns, rows) = (waves.repeat([side, 1]), waves.repeat_interleave_self_int(side, 0, None));
    let worst = (Tensor::cat(&[columns, rows], 1) - table.squeeze_dim(0)).abs().max().double_value(&[]);
    // The table may have been kept in 16 bits.
    if worst.is_nan() || worst > 0.01 {
        return fail(format!("differs from the fixed table by {worst:.3}"));
    }
    Ok(())
}

/// The pieces of a folder of diffusers for a model that has the embedders once: those of block 0.
///
/// # Errors
/// The blocks' embedders differ, as after training in diffusers: no shared one equals them.
pub fn share_embedders(files: &WeightFiles) -> Result<Vec<Piece>> {
    let shapes = files.shapes();
    let of_block = |n: usize, name: &str| format!("transformer_blocks.{n}.norm1.emb.{name}");
    for (_, theirs) in embedder_names() {
        let first = files.read(&of_block(0, &theirs))?;
        for n in 1..depth(&shapes, "transformer_blocks") {
            let name = of_block(n, &theirs);
            if !files.read(&name)?.f_equal(&first)? {
                let reason = format!(
                    "{name} differs from that of block 0: only a model with embedders in every block can have it"
                );
                return Err(Error::file(files.path(), reason));
            }
        }
    }
    let mut pieces = as_named(&shapes);
    pieces.retain(|p| !p.to.contains(".norm1.emb."));
    let shared = embedder_names().filter_map(|(ours, theirs)| {
        let from = of_block(0, &theirs);
        Some(Piece::whole(ours, &from, shapes.get(&from)?.clone()))
    });
    pieces.extend(shared);
    Ok(pieces)
}

/// The tensors of a model with shared embedders under the names of diffusers, which has them in every block.
pub fn repeat_embedders(tensors: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    let shapes: Shapes = tensors.iter().map(|(n, t)| (n.clone(), t.size())).collect();
    let depth = depth(&shapes, "transformer_blocks");
    let mut all = Vec::new();
    for (name, tensor) in tensors {
        match embedder_names().find(|(ours, _)| ours == name) {
            None => all.push((name.clone(), tensor.shallow_clone())),
            Some((_, theirs)) => all.extend(
                (0..depth)
                    .map(|n| (format!("transformer_blocks.{n}.norm1.emb.{theirs}"), tensor.shallow_clone())),
            ),
        }
    }
    all
}

/// Heads of the published sizes S, B, L and XL, by width.
const HEADS: [(i64, i64); 4] = [(384, 6), (768, 12), (1024, 16), (1152, 16)];

/// The fields of diffusers' `config.json` for a file in the original's layout, from the shapes; `heads` may be left
/// out for the published widths 384, 768, 1024 and 1152.
///
/// `num_embeds_ada_norm` is one less than the table of classes, whose last row stands for no class. The prediction
/// has a learned variance where `out_channels` is twice `in_channels`.
///
/// # Errors
/// Tensors that are missing or whose shapes do not belong together, or heads that no one said.
pub fn config(shapes: &Shapes, heads: Option<i64>) -> Result<Map<String, Value>> {
    let get = |name: &str, dims: usize| {
        let shape =
            shapes.get(name).map(Vec::as_slice).filter(|s| s.len() == dims && s.iter().all(|d| *d > 0));
        shape.ok_or_else(|| {
            let found = shapes.get(name).map_or_else(|| "missing".to_owned(), |s| format!("{s:?}"));
            Error::config(name, format!("{found}, needed are {dims} dimensions: is this an original DiT?"))
        })
    };
    let patches = get("x_embedder.proj.weight", 4)?; // [width, in_channels, patch, patch]
    let (width, in_channels, patch) = (patches[0], patches[1], patches[2]);
    let tokens = get("pos_embed", 3)?[1];
    let side = tokens.isqrt();
    let rows = get("final_layer.linear.weight", 2)?[0];
    let classes = get(&format!("y_embedder.{TABLE}"), 2)?[0] - 1;
    if side * side != tokens || rows % (patch * patch) != 0 {
        let reason = format!("{tokens} tokens, {rows} outputs, patches of {patch}: no square image has them");
        return Err(Error::config("pos_embed", reason));
    }
    let published = HEADS.iter().find(|(w, _)| *w == width).map(|(_, heads)| *heads);
    let heads = heads.or(published).ok_or_else(|| {
        Error::config("heads", format!("width {width} is none of S, B, L and XL: say how many heads it has"))
    })?;
    if heads < 1 || width % heads != 0 {
        return Err(Error::config("heads", format!("{heads} does not divide the width {width}")));
    }
    let config = json!({
        "_class_name": "DiTTransformer2DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": true,
        "attention_head_dim": width / heads,
        "dropout": 0.0,
        "in_channels": in_channels,
        "norm_elementwise_affine": false,
        "norm_eps": 1e-6, // the original's, where diffusers' own default is 1e-5
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": heads,
        "num_embeds_ada_norm": classes,
        "num_layers": depth(shapes, "blocks"),
        "out_channels": rows / (patch * patch),
        "patch_size": patch,
        "sample_size": side * patch,
        "upcast_attention": false,
    });
    Ok(config.as_object().cloned().unwrap_or_default())
}
