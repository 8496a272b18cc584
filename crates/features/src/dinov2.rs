//! DINOv2: vision transformers trained without labels.

use crate::encoder::{Encoder, EncoderShape, Names, count};
use crate::images::{ImageInput, Resize};
use heldout_core::{Error, FeatureExtractor, FeatureOutput, Result};
use heldout_nn::{Conv2d, FeedForwardKind, LayerNorm, to_tokens, variable};
use heldout_weights::{Shapes, WeightFiles};
use std::path::Path;
use tch::nn::Init;
use tch::{Device, Kind, Tensor, nn};

/// Width of a head in every published size.
const HEAD: i64 = 64;
const EPS: f64 = 1e-6;
/// What the original adds to the new side before it divides by the old one.
const OFFSET: f64 = 0.1;

/// A DINOv2 vision transformer, with registers or without: features `[B, D]` are the class token behind the last norm.
///
/// Oquab et al. 2023; registers of Darcet et al. 2024. Weights in the layout of transformers (`Dinov2Model`,
/// `Dinov2WithRegistersModel`) or the original's; sizes are read from the shapes. Images are resized to 224 by
/// [`Resize::Bicubic`] and normalised by ImageNet's mean and deviation. Positions of another grid are bicubic between
/// those of the file: antialiased with registers; without, by the size in transformers' layout and by the original's
/// factor, `(side + 0.1) / old side`, in its own, so that each gives what its project gives.
#[derive(Debug)]
pub struct DinoV2 {
    name: String,
    input: ImageInput,
    patch: Conv2d,
    /// `[1, 1, D]`.
    class: Tensor,
    /// `[1, R, D]`.
    registers: Option<Tensor>,
    /// `[1, 1 + N, D]`, of a square of patches.
    positions: Tensor,
    by_factor: bool,
    encoder: Encoder,
    norm: LayerNorm,
    vars: nn::VarStore,
}

/// What differs between the two layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Layout {
    Transformers,
    Original,
}

impl Layout {
    fn block(self, i: usize, part: &str) -> String {
        match self {
            Self::Transformers => format!("encoder.layer.{i}.{part}"),
            Self::Original => format!("blocks.{i}.{part}"),
        }
    }

    /// Class token, registers, positions, convolution, last norm.
    fn names(self) -> [&'static str; 5] {
        match self {
            Self::Transformers => [
                "embeddings.cls_token",
                "embeddings.register_tokens",
                "embeddings.position_embeddings",
                "embeddings.patch_embeddings.projection",
                "layernorm",
            ],
            Self::Original => ["cls_token", "register_tokens", "pos_embed", "patch_embed.proj", "norm"],
        }
    }

    /// First layer of a gated feed-forward, and the last.
    fn gated(self) -> [&'static str; 2] {
        match self {
            Self::Transformers => ["mlp.weights_in", "mlp.weights_out"],
            Self::Original => ["mlp.w12", "mlp.w3"],
        }
    }
}

/// Sizes, as the shapes tell.
struct Sizes {
    layout: Layout,
    patch: i64,
    registers: Option<i64>,
    positions: i64,
    encoder: EncoderShape,
}

impl Sizes {
    fn of(files: &WeightFiles, shapes: &Shapes) -> Result<Self> {
        let layout = match shapes.contains_key("embeddings.cls_token") {
            true => Layout::Transformers,
            false => Layout::Original,
        };
        let [class, registers, positions, patch, _] = layout.names();
        let fail = |reason: String| Error::file(files.path(), reason);
        let shape = |name: &str, rank: usize| {
            let found = shapes.get(name).filter(|s| s.len() == rank);
            found.ok_or_else(|| fail(format!("{name}: is not there as {rank} dimensions: not a DINOv2")))
        };
        let width = shape(class, 3)?[2];
        let gated = shapes.contains_key(&layout.block(0, &format!("{}.weight", layout.gated()[0])));
        let inner = match gated {
            true => shape(&layout.block(0, &format!("{}.weight", layout.gated()[1])), 2)?[1],
            false => shape(&layout.block(0, "mlp.fc1.weight"), 2)?[0],
        };
        let heads = match files.config() {
            Ok(config) => config.get("num_attention_heads").and_then(serde_json::Value::as_i64),
            Err(_) => None, // the original has no configuration
        };
        let heads = heads.unwrap_or(width / HEAD);
        if heads < 1 || width % heads != 0 {
            return Err(fail(format!("{heads} heads of a width of {width}: they do not divide it")));
        }
        let grid = shape(positions, 3)?[1] - 1;
        let side = (grid as f64).sqrt().round() as i64;
        if grid < 1 || side * side != grid {
            return Err(fail(format!("{positions}: {grid} patches are no square")));
        }
        Ok(Self {
            layout,
            patch: shape(&format!("{patch}.weight"), 4)?[2],
            registers: shapes.get(registers).and_then(|s| s.get(1)).copied().filter(|n| *n > 0),
            positions: grid + 1,
            encoder: EncoderShape {
                width,
                depth: count(shapes, |i| layout.block(i, "norm1.weight")),
                heads,
                inner,
                feed_forward: if gated { FeedForwardKind::Swiglu } else { FeedForwardKind::Gelu },
                eps: EPS,
                layer_scale: true,
            },
        })
    }

    fn name(&self) -> String {
        let EncoderShape { width, depth, .. } = self.encoder;
        let size = match (width, depth) {
            (384, 12) => "S".to_owned(),
            (768, 12) => "B".to_owned(),
            (1024, 24) => "L".to_owned(),
            (1536, 40) => "g".to_owned(),
            _ => format!("{width}x{depth}"),
        };
        let registers = self.registers.map(|n| format!("-reg{n}")).unwrap_or_default();
        format!("DINOv2-ViT-{size}/{}{registers}", self.patch)
    }
}

impl DinoV2 {
    /// Opens a safetensors file or a folder of transformers', on `device`.
    ///
    /// # Errors
    /// The files are missing or damaged, or their tensors are others.
    pub fn open(path: &Path, device: Device) -> Result<Self> {
        let files = WeightFiles::open(path, None)?;
        let sizes = Sizes::of(&files, &files.shapes())?;
        let mut vars = nn::VarStore::new(device);
        let root = vars.root();
        let width = sizes.encoder.width;
        let token = |name: &str, n: i64| variable(&root, name, &[1, n, width], Init::Const(0.0));
        let patch = Conv2d::padded(&(&root / "patch"), 3, width, sizes.patch, sizes.patch, 0);
        let [class, positions] = [token("class", 1), token("positions", sizes.positions)];
        let registers = sizes.registers.map(|n| token("registers", n));
        let encoder = Encoder::new(&(&root / "blocks"), sizes.encoder);
        let norm = LayerNorm::new(&(&root / "norm"), width, EPS);
        names(&files, &sizes).load(&mut vars)?;
        if sizes.encoder.feed_forward == FeedForwardKind::Swiglu {
            gates_last(&vars);
        }
        let input = ImageInput {
            size: Some(224 / sizes.patch * sizes.patch),
            resize: Resize::Bicubic,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            ..ImageInput::default()
        };
        let by_factor = sizes.layout == Layout::Original;
        Ok(Self {
            name: sizes.name(),
            input,
            patch,
            class,
            registers,
            positions,
            by_factor,
            encoder,
            norm,
            vars,
        })
    }

    /// What the network is given.
    pub fn input(&self) -> &ImageInput {
        &self.input
    }

    /// The same network on images of another side.
    ///
    /// # Errors
    /// The side is no multiple of the patch.
    pub fn with_size(mut self, side: i64) -> Result<Self> {
        let patch = self.patch.weight.size()[2];
        if side < patch || side % patch != 0 {
            return Err(Error::config(
                "size",
                format!("{side}: a multiple of the patch of {patch} is needed"),
            ));
        }
        self.input.size = Some(side);
        Ok(self)
    }

    /// All tokens behind the last norm, `[B, 1 + N, D]`: the class token, then the patches row by row, without registers.
    ///
    /// # Errors
    /// The images are of another shape or kind.
    pub fn tokens(&self, images: &Tensor) -> Result<Tensor> {
        let input = self.input.prepare(images)?.to_kind(Kind::Float).to_device(self.vars.device());
        let patches = self.patch.forward(&input);
        let size = patches.size();
        let class = self.class.expand([size[0], -1, -1], false);
        let tokens = Tensor::cat(&[class, to_tokens(&patches)], 1) + self.positions([size[2], size[3]])?;
        let tokens = match &self.registers {
            None => tokens,
            Some(registers) => {
                let (class, rest) = (tokens.narrow(1, 0, 1), tokens.narrow(1, 1, tokens.size()[1] - 1));
                Tensor::cat(&[class, registers.expand([size[0], -1, -1], false), rest], 1)
            }
        };
        let states = self.encoder.forward(&tokens, None);
        let out = self.norm.forward(&states[states.len() - 1]);
        Ok(match &self.registers {
            None => out,
            Some(registers) => {
                let skip = 1 + registers.size()[1];
                Tensor::cat(&[out.narrow(1, 0, 1), out.narrow(1, skip, out.size()[1] - skip)], 1)
            }
        })
    }

    /// `[1, 1 + h w, D]`.
    fn positions(&self, grid: [i64; 2]) -> Result<Tensor> {
        let [height, width] = grid;
        let (patches, channels) = (self.positions.size()[1] - 1, self.positions.size()[2]);
        if height == width && height * width == patches {
            return Ok(self.positions.shallow_clone());
        }
        let side = (patches as f64).sqrt().round() as i64;
        let square = self.positions.narrow(1, 1, patches).reshape([1, side, side, channels]);
        let square = square.permute([0, 3, 1, 2]);
        let factor = |n: i64| self.by_factor.then(|| (n as f64 + OFFSET) / side as f64);
        let moved = match self.registers {
            Some(_) => square.f_internal_upsample_bicubic2d_aa(grid, false, None, None)?,
            None => square.f_upsample_bicubic2d(grid, false, factor(height), factor(width))?,
        };
        let moved = moved.permute([0, 2, 3, 1]).reshape([1, height * width, channels]);
        Ok(Tensor::cat(&[self.positions.narrow(1, 0, 1), moved], 1))
    }
}

fn names<'a>(files: &'a WeightFiles, sizes: &Sizes) -> Names<'a> {
    let mut names = Names::new(files);
    let layout = sizes.layout;
    let [class, registers, positions, patch, norm] = layout.names();
    names.one("class", class);
    if sizes.registers.is_some() {
        names.one("registers", registers);
    }
    names.one("positions", positions);
    names.layer("patch", patch);
    names.layer("norm", norm);
    let feed_forward = match sizes.encoder.feed_forward {
        FeedForwardKind::Swiglu => layout.gated(),
        _ => ["mlp.fc1", "mlp.fc2"],
    };
    for i in 0..sizes.encoder.depth {
        let (to, from) = (|part: &str| format!("blocks.{i}.{part}"), |part: &str| layout.block(i, part));
        for norm in ["norm1", "norm2"] {
            names.layer(&to(norm), &from(norm));
        }
        for (ours, theirs) in [("ff.net.0.proj", feed_forward[0]), ("ff.net.2", feed_forward[1])] {
            names.layer(&to(ours), &from(theirs));
        }
        match layout {
            Layout::Transformers => {
                for (ours, theirs) in [("to_q", "query"), ("to_k", "key"), ("to_v", "value")] {
                    names
                        .layer(&to(&format!("attn.{ours}")), &from(&format!("attention.attention.{theirs}")));
                }
                names.layer(&to("attn.to_out.0"), &from("attention.output.dense"));
                names.one(&to("scale1"), &from("layer_scale1.lambda1"));
                names.one(&to("scale2"), &from("layer_scale2.lambda1"));
            }
            Layout::Original => {
                names.query_key_value(&to("attn"), &from("attn.qkv"));
                names.layer(&to("attn.to_out.0"), &from("attn.proj"));
                names.one(&to("scale1"), &from("ls1.gamma"));
                names.one(&to("scale2"), &from("ls2.gamma"));
            }
        }
    }
    names
}

/// The gate comes first in the files, and second in our gated layers.
fn gates_last(vars: &nn::VarStore) {
    tch::no_grad(|| {
        for (name, mut t) in vars.variables() {
            if name.contains(".ff.net.0.proj.") {
                let turned = t.roll([t.size()[0] / 2], [0]);
                t.copy_(&turned);
            }
        }
    });
}

impl FeatureExtractor for DinoV2 {
    fn name(&self) -> &str {
        &self.name
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        Ok(self.tokens(images)?.select(1, 0).into())
    }
}
