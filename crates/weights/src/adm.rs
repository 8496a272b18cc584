//! The layout of the original ADM UNet (Dhariwal & Nichol 2021) in the names of diffusers' `UNet2DModel`.
//!
//! With `n` the number of residual blocks of a resolution on the way down, `I` a resolution, `J` a block of it:
//!
//! | original | diffusers' |
//! |---|---|
//! | `time_embed.0`, `.2` | `time_embedding.linear_1`, `linear_2` |
//! | `label_emb.weight` | `class_embedding.weight` |
//! | `input_blocks.0.0` | `conv_in` |
//! | `input_blocks.{1 + I (n + 1) + J}.0`, `.1` | `down_blocks.I.resnets.J`, `.attentions.J` |
//! | `input_blocks.{(I + 1) (n + 1)}.0`, a residual block | `down_blocks.I.downsamplers.0` |
//! | the same, `.0.op` | `down_blocks.I.downsamplers.0.conv` |
//! | `middle_block.0`, `.1`, `.2` | `mid_block.resnets.0`, `.attentions.0`, `.resnets.1` |
//! | `output_blocks.{I (n + 1) + J}.0`, `.1` | `up_blocks.I.resnets.J`, `.attentions.J` |
//! | `output_blocks.{I (n + 1) + n}.M`, the last, a residual block | `up_blocks.I.upsamplers.0` |
//! | the same, `.M.conv` | `up_blocks.I.upsamplers.0.conv` |
//! | `out.0`, `out.2` | `conv_norm_out`, `conv_out` |
//!
//! Inside a residual block:
//!
//! | original | diffusers' |
//! |---|---|
//! | `in_layers.0`, `in_layers.2` | `norm1`, `conv1` |
//! | `emb_layers.1` | `time_emb_proj` |
//! | `out_layers.0`, `out_layers.3` | `norm2`, `conv2` |
//! | `skip_connection` | `conv_shortcut` |
//!
//! Inside an attention layer: `norm` is `group_norm`, `proj_out` `[C, C, 1]` is `to_out.0` `[C, C]`, and `qkv`
//! `[3 C, C, 1]` is `to_q`, `to_k`, `to_v` `[C, C]`, whose rows lie in one of two orders ([`HeadOrder`]).

use crate::Piece;
use crate::piece::{Collector, Shapes};
use heldout_core::{Error, Result};
use serde_json::{Map, Value, json};

/// The order of the rows of `qkv`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadOrder {
    /// `(heads, 3, dim)`: each head has its query, key and value together. All published models.
    Interleaved,
    /// `(3, heads, dim)`: all queries, then all keys, then all values; `use_new_attention_order` of the original.
    Stacked,
}

/// How the heads lie in `qkv`; no shape tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Channels of one head: 64 in the published models of 64, 256 and 512 pixels.
    pub channels: i64,
    /// The order of the rows.
    pub order: HeadOrder,
}

const RESNET: [(&str, &str); 5] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
];

/// Whether these are the names of the original ADM.
pub(crate) fn is_original(shapes: &Shapes) -> bool {
    shapes.contains_key("input_blocks.0.0.weight") && shapes.contains_key("time_embed.0.weight")
}

/// What the names tell of the network.
#[derive(Debug, PartialEq, Eq)]
struct Structure {
    levels: usize,
    /// Residual blocks of a resolution on the way down.
    layers: usize,
    /// Whether each resolution has attention, finest first.
    attention: Vec<bool>,
    /// Whether resolutions change in residual blocks, as against single convolutions.
    by_resnet: bool,
}

impl Structure {
    /// Counts blocks. A residual block that halves the image looks like any other, but one that doubles it is the
    /// second in its output block: so the way up tells how many resolutions there are.
    fn of(shapes: &Shapes) -> Result<Self> {
        let fail = |field: &str, reason: String| {
            Err(Error::config(field, format!("{reason}: this is not the original ADM UNet")))
        };
        let (inputs, outputs) = (count(shapes, "input_blocks"), count(shapes, "output_blocks"));
        let ups = (0..outputs).filter(|n| up_of(shapes, *n).is_some()).count();
        let levels = ups + 1;
        if outputs == 0 || inputs != outputs || outputs % levels != 0 || outputs / levels < 2 {
            let reason = format!("{inputs}, with {outputs} output_blocks of which {ups} double the image");
            return fail("input_blocks", reason);
        }
        let layers = outputs / levels - 1;
        let attends = |level: usize| {
            shapes.contains_key(&format!("input_blocks.{}.1.qkv.weight", 1 + level * (layers + 1)))
        };
        let by_resnet = !shapes.contains_key(&format!("input_blocks.{}.0.op.weight", layers + 1));
        Ok(Self { levels, layers, attention: (0..levels).map(attends).collect(), by_resnet })
    }

    /// The resolution, finest first, of block `i` of the way up.
    fn level_of_up(&self, i: usize) -> usize {
        self.levels - 1 - i
    }
}

/// How many of `prefix.0`, `prefix.1`, .. there are.
fn count(shapes: &Shapes, prefix: &str) -> usize {
    (0..).take_while(|n| starts(shapes, &format!("{prefix}.{n}."))).count()
}

fn starts(shapes: &Shapes, prefix: &str) -> bool {
    shapes.range(prefix.to_owned()..).next().is_some_and(|(name, _)| name.starts_with(prefix))
}

/// The module of an output block that doubles the image.
fn up_of(shapes: &Shapes, n: usize) -> Option<usize> {
    (1..3).find(|m| {
        ["in_layers.0.weight", "conv.weight"]
            .iter()
            .any(|inner| shapes.contains_key(&format!("output_blocks.{n}.{m}.{inner}")))
    })
}

/// The pieces of a file in the original's layout.
///
/// # Errors
/// Tensors that the original does not have, or lacks, and heads that do not divide the channels.
pub fn from_original(shapes: &Shapes, heads: Heads) -> Result<Vec<Piece>> {
    let structure = Structure::of(shapes)?;
    check_heads(shapes, heads)?;
    let mut c = Collector::new(shapes);
    c.layer("time_embedding.linear_1", "time_embed.0");
    c.layer("time_embedding.linear_2", "time_embed.2");
    if c.has("label_emb.weight") {
        c.one("class_embedding.weight", "label_emb.weight");
    }
    c.layer("conv_in", "input_blocks.0.0");
    let per_level = structure.layers + 1;
    for level in 0..structure.levels {
        let to = format!("down_blocks.{level}");
        for j in 0..structure.layers {
            let from = format!("input_blocks.{}", 1 + level * per_level + j);
            block(&mut c, &to, j, &from, structure.attention[level], heads);
        }
        if level + 1 < structure.levels {
            let (to, from) =
                (format!("{to}.downsamplers.0"), format!("input_blocks.{}.0", (level + 1) * per_level));
            if structure.by_resnet {
                resnet(&mut c, &to, &from);
            } else {
                c.layer(&format!("{to}.conv"), &format!("{from}.op"));
            }
        }
    }
    resnet(&mut c, "mid_block.resnets.0", "middle_block.0");
    attention(&mut c, "mid_block.attentions.0", "middle_block.1", heads);
    resnet(&mut c, "mid_block.resnets.1", "middle_block.2");
    for i in 0..structure.levels {
        let to = format!("up_blocks.{i}");
        let attends = structure.attention[structure.level_of_up(i)];
        for j in 0..per_level {
            block(&mut c, &to, j, &format!("output_blocks.{}", i * per_level + j), attends, heads);
        }
        if i + 1 < structure.levels {
            let (to, module) = (format!("{to}.upsamplers.0"), 1 + usize::from(attends));
            let from = format!("output_blocks.{}.{module}", i * per_level + structure.layers);
            if structure.by_resnet {
                resnet(&mut c, &to, &from);
            } else {
                c.layer(&format!("{to}.conv"), &format!("{from}.conv"));
            }
        }
    }
    c.layer("conv_norm_out", "out.0");
    c.layer("conv_out", "out.2");
    c.finish("the original ADM UNet")
}

/// A residual block and, where the resolution attends, the attention after it.
fn block(c: &mut Collector<'_>, to: &str, j: usize, from: &str, attends: bool, heads: Heads) {
    resnet(c, &format!("{to}.resnets.{j}"), &format!("{from}.0"));
    if attends {
        attention(c, &format!("{to}.attentions.{j}"), &format!("{from}.1"), heads);
    }
}

fn resnet(c: &mut Collector<'_>, to: &str, from: &str) {
    for (theirs, original) in RESNET {
        c.layer(&format!("{to}.{theirs}"), &format!("{from}.{original}"));
    }
    if c.has(&format!("{from}.skip_connection.weight")) {
        c.layer(&format!("{to}.conv_shortcut"), &format!("{from}.skip_connection"));
    }
}

fn attention(c: &mut Collector<'_>, to: &str, from: &str, heads: Heads) {
    c.layer(&format!("{to}.group_norm"), &format!("{from}.norm"));
    let groups = |channels: i64| match heads.order {
        HeadOrder::Interleaved => channels / heads.channels,
        HeadOrder::Stacked => 1,
    };
    c.query_key_value(to, &format!("{from}.qkv"), groups);
    c.as_linear(&format!("{to}.to_out.0"), &format!("{from}.proj_out"));
}

fn check_heads(shapes: &Shapes, heads: Heads) -> Result<()> {
    for (name, shape) in shapes.iter().filter(|(name, _)| name.ends_with(".qkv.weight")) {
        let rows = shape.first().copied().unwrap_or(0);
        if heads.channels < 1 || rows % (3 * heads.channels) != 0 {
            let reason = format!("{} does not divide the {} channels of {name}", heads.channels, rows / 3);
            return Err(Error::config("heads.channels", reason));
        }
    }
    Ok(())
}

/// The fields of diffusers' `config.json` for a file in the original's layout, from the shapes. `head_channels` and
/// the side of the images (`None` is null) are in no shape.
///
/// # Errors
/// Tensors that are missing, heads that do not divide the channels, or a network that `UNet2DModel` cannot express:
/// one whose first resolution has other channels than its time embedding (the published model of 512 pixels).
pub fn config(shapes: &Shapes, head_channels: i64, sample_size: Option<i64>) -> Result<Map<String, Value>> {
    check_heads(shapes, Heads { channels: head_channels, order: HeadOrder::Stacked })?;
    let Structure { levels, layers, attention, by_resnet } = Structure::of(shapes)?;
    let size = |name: String, dimension: usize| {
        let found = shapes.get(&name).and_then(|s| s.get(dimension)).copied();
        found.ok_or_else(|| Error::config(name, "missing: this is not the original ADM UNet"))
    };
    let first = |level: usize| format!("input_blocks.{}.0", 1 + level * (layers + 1));
    let widths = (0..levels)
        .map(|level| size(format!("{}.out_layers.3.weight", first(level)), 0))
        .collect::<Result<Vec<_>>>()?;
    let frequencies = size("time_embed.0.weight".to_owned(), 1)?;
    if frequencies != widths[0] {
        let reason = format!(
            "the time embedding has {frequencies} frequencies, the first resolution {} channels: UNet2DModel has one number for both",
            widths[0]
        );
        return Err(Error::config("block_out_channels", reason));
    }
    let scales = size(format!("{}.emb_layers.1.weight", first(0)), 0)? == 2 * widths[0];
    let kind = |attends: &bool, way: &str| match (attends, by_resnet) {
        (true, _) => format!("Attn{way}Block2D"),
        (false, false) => format!("{way}Block2D"),
        (false, true) => format!("Resnet{way}sampleBlock2D"),
    };
    let resampling = if by_resnet { "resnet" } else { "conv" };
    let config = json!({
        "_class_name": "UNet2DModel",
        "act_fn": "silu",
        "add_attention": true,
        "attention_head_dim": head_channels,
        "attn_norm_num_groups": 32,
        "block_out_channels": widths,
        "center_input_sample": false,
        "class_embed_type": null,
        "down_block_types": attention.iter().map(|a| kind(a, "Down")).collect::<Vec<_>>(),
        "downsample_padding": 1,
        "downsample_type": resampling,
        "dropout": 0.0,
        "flip_sin_to_cos": true, // cosines first
        "freq_shift": 0,
        "in_channels": size("input_blocks.0.0.weight".to_owned(), 1)?,
        "layers_per_block": layers,
        "mid_block_scale_factor": 1,
        "norm_eps": 1e-5,
        "norm_num_groups": 32,
        "num_class_embeds": shapes.get("label_emb.weight").and_then(|s| s.first()),
        "out_channels": size("out.2.weight".to_owned(), 0)?,
        "resnet_time_scale_shift": if scales { "scale_shift" } else { "default" },
        "sample_size": sample_size,
        "time_embedding_type": "positional",
        "up_block_types": attention.iter().rev().map(|a| kind(a, "Up")).collect::<Vec<_>>(),
        "upsample_type": resampling,
    });
    Ok(config.as_object().cloned().unwrap_or_default())
}
