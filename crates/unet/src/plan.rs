//! A UNet written out: every block with its sizes. Configurations become plans, and plans become networks.

use heldout_core::{Error, Input, Result};
use heldout_nn::{
    Activation, AddedAttentionShape, AttentionShape, Grounding, MlpOptions, NormedAttentionShape,
    ResBlockShape, Resample, TimeAttention, TimeEmbeddingConfig, Transformer2dShape,
};

/// A UNet written out.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Channels of the images.
    pub in_channels: i64,
    /// Channels of the prediction.
    pub out_channels: i64,
    /// Channels of the finest resolution.
    pub width: i64,
    /// Whether images in `[0, 1]` are brought to `[-1, 1]` first.
    pub center_input: bool,
    /// What the blocks are told.
    pub conditioning: ConditioningPlan,
    /// Side of the first kernel.
    pub conv_in_kernel: i64,
    /// Side of the last kernel.
    pub conv_out_kernel: i64,
    /// The way down, finest first.
    pub down: Vec<LevelPlan>,
    /// The middle.
    pub mid: Option<MidPlan>,
    /// The way up, coarsest first.
    pub up: Vec<LevelPlan>,
    /// Groups, epsilon and activation of the last norm.
    pub norm_out: Option<(i64, f64, Activation)>,
    /// What boxes are described by, and the width of the context that they join, in models that carry such layers.
    pub grounding: Option<(Grounding, i64)>,
    /// Whether the output is divided by the noise level, for networks that are told its logarithm.
    pub divide_by_level: bool,
}

/// One resolution, of the way down or up.
#[derive(Debug, Clone)]
pub struct LevelPlan {
    /// Residual blocks.
    pub resnets: Vec<ResBlockShape>,
    /// Attention layers, each after the residual block of this number.
    pub attentions: Vec<(usize, AttentionPlan)>,
    /// What changes the resolution at the end.
    pub resample: ResamplePlan,
    /// Whether the image itself is carried along, filtered to every resolution; Song et al. 2021, section 4.1.
    pub carries_image: bool,
    /// How skip connections come in, on the way up.
    pub joins: Joins,
}

/// How skip connections come in on the way up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joins {
    /// One before each residual block.
    Each,
    /// The last one before the first residual block, as in k-diffusion.
    Last,
    /// None.
    Never,
}

/// What changes the resolution at the end of a level.
#[derive(Debug, Clone, Copy)]
pub enum ResamplePlan {
    /// Nothing.
    Keep,
    /// A convolution of `channels`, on the way down with this padding.
    Conv {
        /// Channels.
        channels: i64,
        /// Padding.
        padding: i64,
    },
    /// A residual block.
    Block(ResBlockShape),
    /// A residual block beside an image that is carried along.
    Beside(ResBlockShape),
    /// A filter without weights.
    Filter(Resample),
}

/// One attention layer.
#[derive(Debug, Clone, Copy)]
pub enum AttentionPlan {
    /// The image's places among themselves.
    Own {
        /// Its sizes.
        shape: AttentionShape,
        /// Groups and epsilon of its norm.
        norm: Option<(i64, f64)>,
        /// Divides the sum.
        scale: f64,
    },
    /// A transformer that looks at a context.
    Cross(Transformer2dShape),
    /// The image's places and a context under one softmax.
    Added(AddedAttentionShape),
    /// Attention behind norms that follow time.
    Normed(NormedAttentionShape),
}

/// The middle: a residual block, then an attention layer (or none) and a residual block for each entry of `rest`.
#[derive(Debug, Clone)]
pub struct MidPlan {
    /// The first block.
    pub first: ResBlockShape,
    /// What follows.
    pub rest: Option<(Option<AttentionPlan>, ResBlockShape)>,
}

/// What the blocks are told.
#[derive(Debug, Clone)]
pub struct ConditioningPlan {
    /// How they see the noise level.
    pub time: TimeEmbeddingConfig,
    /// Width of its features.
    pub features: i64,
    /// Width of the time embedding.
    pub embedding: i64,
    /// Options of its MLP.
    pub mlp: MlpOptions,
    /// Classes.
    pub class: Option<ClassPlan>,
    /// Whether the class embedding stands beside the time embedding rather than being added to it.
    pub concat: bool,
    /// Further conditions.
    pub added: Option<AddedPlan>,
    /// What becomes of the context before the blocks see it.
    pub context: Option<ContextPlan>,
    /// Width of the context's tokens as a user gives them; `None` without a context.
    pub context_dim: Option<i64>,
    /// After everything has been added.
    pub act: Option<Activation>,
    /// The activation that all blocks share.
    pub activation: Activation,
}

/// How a class enters.
#[derive(Debug, Clone, Copy)]
pub enum ClassPlan {
    /// A learned vector for each of so many.
    Table(i64),
    /// A number, as the noise level.
    Timestep(Activation),
    /// A vector of the embedding's width.
    Identity,
    /// A vector of this width, by an MLP.
    Mlp(i64),
    /// A vector of this width, by a linear layer.
    Linear(i64),
}

/// Further conditions, added to the time embedding.
#[derive(Debug, Clone, Copy)]
pub enum AddedPlan {
    /// The context, pooled by attention; Saharia et al. 2022 as in DeepFloyd IF.
    Text {
        /// Width of the context.
        context: i64,
        /// Heads of the pooling.
        heads: i64,
    },
    /// A vector of the text and one of an image, each of this width.
    TextImage(i64),
    /// A vector of the text and numbers of size; Podell et al. 2023, section 2.2.
    TextTime {
        /// Width of the features of each number.
        time_dim: i64,
        /// Width of all together.
        input: i64,
        /// Whether cosines come first.
        flip_sin_to_cos: bool,
        /// As in [`TimeEmbeddingConfig::Sinusoidal`].
        freq_shift: f64,
    },
    /// A vector of an image, of this width.
    Image(i64),
    /// The same, and a hint image.
    ImageHint(i64),
}

/// What becomes of the context.
#[derive(Debug, Clone, Copy)]
pub enum ContextPlan {
    /// A linear layer.
    Text {
        /// Width of its tokens.
        from: i64,
        /// Width for the blocks.
        to: i64,
    },
    /// Ten tokens from a vector of an image, before the projected text.
    TextImage {
        /// Width of the text's tokens.
        text: i64,
        /// Width for the blocks, and of the image's vector.
        to: i64,
    },
    /// 32 tokens from a vector of an image.
    Image {
        /// Width of the vector.
        from: i64,
        /// Width for the blocks.
        to: i64,
    },
}

/// Channels of a hint as it stands beside the images.
const HINT_CHANNELS: i64 = 4;

impl Plan {
    /// Channels of the images: a hint comes in beside them.
    pub fn image_channels(&self) -> i64 {
        let hinted = matches!(self.conditioning.added, Some(AddedPlan::ImageHint(_)));
        self.in_channels - if hinted { HINT_CHANNELS } else { 0 }
    }

    /// Whether images of this shape fit: channels, and sides that halve at every resolution but the last.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        if channels != self.image_channels() {
            let reason =
                format!("{} for images of {channels} channels: they must be equal", self.image_channels());
            return Err(Error::config("in_channels", reason));
        }
        let factor = 1 << self.halvings();
        if height % factor != 0 || width % factor != 0 {
            let reason = format!("{height}x{width} images cannot be halved {} times", self.halvings());
            return Err(Error::config("block_out_channels", reason));
        }
        Ok(())
    }

    /// How often the resolution is halved.
    pub fn halvings(&self) -> usize {
        self.down.iter().filter(|level| !matches!(level.resample, ResamplePlan::Keep)).count()
    }

    /// The conditions that a batch needs, by their names in [`heldout_core::Cond::fields`], with their shapes; the context
    /// has `tokens` tokens, a hint is eight times as large as the images of `side`.
    pub fn conditions(&self, batch: i64, tokens: i64, side: [i64; 2]) -> Vec<(&'static str, Vec<i64>)> {
        let c = &self.conditioning;
        let mut needed = Vec::new();
        match c.class {
            Some(ClassPlan::Table(_) | ClassPlan::Timestep(_)) => needed.push(("class_labels", vec![batch])),
            Some(ClassPlan::Identity) => needed.push(("class_labels", vec![batch, c.embedding])),
            Some(ClassPlan::Mlp(n) | ClassPlan::Linear(n)) => needed.push(("class_labels", vec![batch, n])),
            None => {}
        }
        let image = |n| ("image_embeds", vec![batch, n]);
        let text = |n| ("encoder_hidden_states", vec![batch, tokens, n]);
        match c.added {
            Some(AddedPlan::TextImage(n)) => needed.extend([("text_embeds", vec![batch, n]), image(n)]),
            Some(AddedPlan::TextTime { time_dim, input, .. }) => {
                let ids = 6.min(input / time_dim.max(1));
                needed.push(("text_embeds", vec![batch, input - ids * time_dim]));
                needed.push(("time_ids", vec![batch, ids]));
            }
            Some(AddedPlan::Image(n)) => needed.push(image(n)),
            Some(AddedPlan::ImageHint(n)) => {
                needed.extend([image(n), ("hint", vec![batch, 3, side[0] * 8, side[1] * 8])]);
            }
            Some(AddedPlan::Text { .. }) | None => {}
        }
        match (c.context, c.context_dim) {
            (Some(ContextPlan::Image { from, .. }), _) => needed.push(image(from)),
            (Some(ContextPlan::TextImage { text: n, to }), _) => needed.extend([image(to), text(n)]),
            (Some(ContextPlan::Text { from, .. }), _) => needed.push(text(from)),
            (None, Some(n)) => needed.push(text(n)),
            (None, None) => {}
        }
        needed
    }

    /// Whether images and noise levels of these shapes can be taken.
    pub fn check_input(&self, input: Input<'_>) -> Result<()> {
        let size = input.x.size();
        let channels = self.image_channels();
        if size.len() != 4 || size[1] != channels || size.contains(&0) {
            let reason = format!("is of shape {size:?}: the network needs [B, {channels}, H, W]");
            return Err(Error::config("sample", reason));
        }
        let halved = 1 << self.halvings();
        if size[2] < halved || size[3] < halved {
            let reason = format!("{}x{} cannot be halved {} times", size[2], size[3], self.halvings());
            return Err(Error::config("sample", reason));
        }
        if input.noise_level.size() != [size[0]] {
            let reason =
                format!("is of shape {:?}: one for each of {} rows", input.noise_level.size(), size[0]);
            return Err(Error::config("timestep", reason));
        }
        Ok(())
    }

    /// Every attention layer.
    pub(crate) fn attentions_mut(&mut self) -> impl Iterator<Item = &mut AttentionPlan> {
        let levels = self.down.iter_mut().chain(&mut self.up);
        let mid = self.mid.iter_mut().filter_map(|mid| mid.rest.as_mut()?.0.as_mut());
        levels.flat_map(|level| level.attentions.iter_mut().map(|(_, a)| a)).chain(mid)
    }

    /// Lets time enter the attention layers that can take it.
    pub(crate) fn time_in_attention(&mut self, time: TimeAttention) {
        let time = (time, self.conditioning.blocks());
        for attention in self.attentions_mut() {
            match attention {
                AttentionPlan::Own { shape, .. } => shape.time = time,
                AttentionPlan::Cross(shape) => shape.time = time,
                AttentionPlan::Added(_) | AttentionPlan::Normed(_) => {}
            }
        }
    }

    /// Which sizes do not fit each other.
    pub fn check(&self) -> Result<()> {
        let positive = |field: &str, n: i64| {
            if n >= 1 { Ok(()) } else { Err(Error::config(field, format!("{n}: at least 1 is needed"))) }
        };
        positive("in_channels", self.in_channels)?;
        positive("out_channels", self.out_channels)?;
        positive("conv_in_kernel", self.conv_in_kernel)?;
        positive("conv_out_kernel", self.conv_out_kernel)?;
        positive("block_out_channels", self.width)?;
        positive("time_embedding_dim", self.conditioning.embedding)?;
        positive("block_out_channels", self.conditioning.features)?;
        self.conditioning.time.check(self.conditioning.features).map_err(|e| e.within("time_embedding"))?;
        for (way, levels) in [("down_blocks", &self.down), ("up_blocks", &self.up)] {
            for (i, level) in levels.iter().enumerate() {
                level.check().map_err(|e| e.within(&format!("{way}.{i}")))?;
            }
        }
        if let Some(mid) = &self.mid {
            check_block(&mid.first).map_err(|e| e.within("mid_block"))?;
            if let Some((attention, block)) = &mid.rest {
                attention.iter().try_for_each(check_attention).map_err(|e| e.within("mid_block"))?;
                check_block(block).map_err(|e| e.within("mid_block"))?;
            }
        }
        Ok(())
    }
}

impl ConditioningPlan {
    /// Width of the time embedding as the blocks see it.
    pub fn blocks(&self) -> i64 {
        if self.concat { 2 * self.embedding } else { self.embedding }
    }
}

impl LevelPlan {
    fn check(&self) -> Result<()> {
        self.resnets.iter().try_for_each(check_block)?;
        self.attentions.iter().try_for_each(|(_, attention)| check_attention(attention))?;
        match &self.resample {
            ResamplePlan::Block(block) | ResamplePlan::Beside(block) => check_block(block),
            _ => Ok(()),
        }
    }
}

fn divides(field: &str, n: i64, channels: i64) -> Result<()> {
    if n >= 1 && channels >= 1 && channels % n == 0 {
        return Ok(());
    }
    Err(Error::config(field, format!("{n} does not divide {channels} channels")))
}

fn check_block(shape: &ResBlockShape) -> Result<()> {
    divides("norm_num_groups", shape.norm_groups[0], shape.from)?;
    divides("norm_num_groups", shape.norm_groups[1], shape.inner)?;
    if !(shape.norm_eps.is_finite() && shape.norm_eps > 0.0) {
        return Err(Error::config("norm_eps", format!("{} is not a positive number", shape.norm_eps)));
    }
    if !(0.0..1.0).contains(&shape.dropout) {
        return Err(Error::config("dropout", format!("{} is not in [0, 1)", shape.dropout)));
    }
    Ok(())
}

fn check_attention(attention: &AttentionPlan) -> Result<()> {
    const HEADS: &str = "attention_head_dim";
    match *attention {
        AttentionPlan::Own { shape, norm, .. } => {
            norm.map_or(Ok(()), |(groups, _)| divides("norm_num_groups", groups, shape.channels))
        }
        AttentionPlan::Cross(shape) => divides("norm_num_groups", shape.norm_groups, shape.channels),
        AttentionPlan::Added(shape) => {
            divides(HEADS, shape.head_dim, shape.channels)?;
            divides("norm_num_groups", shape.norm_groups, shape.channels)
        }
        AttentionPlan::Normed(shape) => divides(HEADS, shape.head_dim, shape.channels),
    }
}
