//! One resolution of a UNet, on the way down or up.

use crate::plan::{AttentionPlan, Joins, LevelPlan, ResamplePlan};
use heldout_nn::{
    Activation, AddedAttention, Conv2d, Downsample, GroupNorm, NormedAttention, ResBlock, Resample,
    SelfAttention, Surroundings, Transformer2d, Upsample,
};
use tch::{Tensor, nn};

/// One attention layer of a UNet.
#[derive(Debug)]
pub(crate) enum AttentionLayer {
    Own(SelfAttention),
    Cross(Transformer2d),
    Added(AddedAttention),
    Normed(Box<NormedAttention>),
}

impl AttentionLayer {
    pub(crate) fn new(vs: &nn::Path<'_>, plan: &AttentionPlan) -> Self {
        match *plan {
            AttentionPlan::Own { shape, norm, scale } => {
                Self::Own(SelfAttention::new(vs, shape, norm, scale))
            }
            AttentionPlan::Cross(shape) => Self::Cross(Transformer2d::new(vs, shape)),
            AttentionPlan::Added(shape) => Self::Added(AddedAttention::new(vs, shape)),
            AttentionPlan::Normed(shape) => Self::Normed(Box::new(NormedAttention::new(vs, shape))),
        }
    }

    pub(crate) fn forward(&self, x: &Tensor, around: Surroundings<'_>) -> Tensor {
        match self {
            Self::Own(layer) => layer.forward(x, around),
            Self::Cross(layer) => layer.forward(x, around),
            Self::Added(layer) => layer.forward(x, around),
            Self::Normed(layer) => layer.forward(x, around),
        }
    }
}

/// Residual blocks with the attention layers that follow them.
#[derive(Debug)]
struct Blocks(Vec<(ResBlock, Option<AttentionLayer>)>);

impl Blocks {
    /// Under `vs`: `resnets`, `attentions`.
    fn new(vs: &nn::Path<'_>, plan: &LevelPlan) -> Self {
        let resnets = plan.resnets.iter().enumerate();
        let mut blocks: Vec<_> =
            resnets.map(|(j, shape)| (ResBlock::new(&(vs / "resnets" / j), *shape), None)).collect();
        for (number, (after, attention)) in plan.attentions.iter().enumerate() {
            blocks[*after].1 = Some(AttentionLayer::new(&(vs / "attentions" / number), attention));
        }
        Self(blocks)
    }
}

fn after(attention: &Option<AttentionLayer>, h: Tensor, around: Surroundings<'_>) -> Tensor {
    match attention {
        Some(attention) => attention.forward(&h, around),
        None => h,
    }
}

/// Channels of an image that is carried along.
const CARRIED: i64 = 3;

#[derive(Debug)]
enum Down {
    Keep,
    Conv(Downsample),
    Block(ResBlock),
    Beside(ResBlock, Conv2d),
    Filter(Resample),
}

/// One resolution of the way down.
#[derive(Debug)]
pub(crate) struct DownLevel {
    blocks: Blocks,
    resample: Down,
    /// Whether its state is shown before the resolution changes.
    pub(crate) shows_blocks: bool,
}

impl DownLevel {
    /// Under `vs`: `resnets`, `attentions`, `downsamplers`, or `resnet_down` and `skip_conv`.
    pub(crate) fn new(vs: &nn::Path<'_>, plan: &LevelPlan) -> Self {
        let first = vs / "downsamplers" / 0;
        let resample = match plan.resample {
            ResamplePlan::Keep => Down::Keep,
            ResamplePlan::Conv { channels, padding } => {
                Down::Conv(Downsample::new(&first, channels, padding))
            }
            ResamplePlan::Block(shape) => Down::Block(ResBlock::new(&first, shape)),
            ResamplePlan::Beside(shape) => Down::Beside(
                ResBlock::new(&(vs / "resnet_down"), shape),
                Conv2d::new(&(vs / "skip_conv"), CARRIED, shape.to, 1, 1),
            ),
            ResamplePlan::Filter(filter) => Down::Filter(filter),
        };
        // diffusers' levels with a context take a T2I-Adapter's features after the last block, the others at their end.
        let looks_at_context = plan.attentions.iter().any(|(_, a)| !matches!(a, AttentionPlan::Own { .. }));
        let shows_blocks = looks_at_context || matches!(resample, Down::Filter(_));
        Self { blocks: Blocks::new(vs, plan), resample, shows_blocks }
    }

    /// Adds a skip connection after every block.
    pub(crate) fn blocks(&self, mut h: Tensor, around: Surroundings<'_>, skips: &mut Vec<Tensor>) -> Tensor {
        for (resnet, attention) in &self.blocks.0 {
            h = after(attention, resnet.forward(&h, around.embedded, around.train), around);
            skips.push(h.shallow_clone());
        }
        h
    }

    /// Adds a skip connection after a change of resolution with weights. `image` is carried along.
    pub(crate) fn resample(
        &self,
        h: Tensor,
        image: &mut Tensor,
        around: Surroundings<'_>,
        skips: &mut Vec<Tensor>,
    ) -> Tensor {
        let h = match &self.resample {
            Down::Keep => return h,
            Down::Filter(filter) => return filter.forward(&h),
            Down::Conv(conv) => conv.forward(&h),
            Down::Block(block) => block.forward(&h, around.embedded, around.train),
            Down::Beside(block, skip) => {
                *image = Resample::FirDown.forward(image);
                skip.forward(image) + block.forward(&h, around.embedded, around.train)
            }
        };
        skips.push(h.shallow_clone());
        h
    }
}

#[derive(Debug)]
enum Up {
    Keep,
    Conv(Upsample),
    Block(ResBlock),
    Beside { block: ResBlock, skip_norm: GroupNorm, skip_conv: Conv2d },
    Filter(Resample),
}

/// One resolution of the way up: a value of its own, since nested UNets are grids of them.
#[derive(Debug)]
pub struct UpLevel {
    blocks: Blocks,
    resample: Up,
    carries_image: bool,
    joins: Joins,
}

impl UpLevel {
    /// Under `vs`: `resnets`, `attentions`, `upsamplers`, or `resnet_up`, `skip_norm` and `skip_conv`.
    pub fn new(vs: &nn::Path<'_>, plan: &LevelPlan) -> Self {
        let first = vs / "upsamplers" / 0;
        let resample = match plan.resample {
            ResamplePlan::Keep => Up::Keep,
            ResamplePlan::Conv { channels, .. } => Up::Conv(Upsample::new(&first, channels)),
            ResamplePlan::Block(shape) => Up::Block(ResBlock::new(&first, shape)),
            ResamplePlan::Beside(shape) => Up::Beside {
                block: ResBlock::new(&(vs / "resnet_up"), shape),
                skip_norm: GroupNorm::new(
                    &(vs / "skip_norm"),
                    shape.norm_groups[0],
                    shape.from,
                    shape.norm_eps,
                ),
                skip_conv: Conv2d::new(&(vs / "skip_conv"), shape.from, CARRIED, 3, 1),
            },
            ResamplePlan::Filter(filter) => Up::Filter(filter),
        };
        let (carries_image, joins) = (plan.carries_image, plan.joins);
        Self { blocks: Blocks::new(vs, plan), resample, carries_image, joins }
    }

    /// What every residual block gives, with its attention: block `k` takes what `join` makes of the last one's output.
    pub fn each(
        &self,
        mut h: Tensor,
        around: Surroundings<'_>,
        join: impl Fn(&Tensor, usize) -> Tensor,
    ) -> Vec<Tensor> {
        let blocks = self.blocks.0.iter().enumerate().map(|(k, (resnet, attention))| {
            let made = resnet.forward(&join(&h, k), around.embedded, around.train);
            h = after(attention, made, around);
            h.shallow_clone()
        });
        blocks.collect()
    }

    /// Takes a skip connection for every block.
    ///
    /// # Panics
    /// If the encoder made fewer.
    pub(crate) fn forward(
        &self,
        mut h: Tensor,
        image: &mut Option<Tensor>,
        around: Surroundings<'_>,
        mut skip: impl FnMut() -> Tensor,
    ) -> Tensor {
        let taken: Vec<Tensor> = self.blocks.0.iter().map(|_| skip()).collect();
        if self.joins == Joins::Last {
            h = Tensor::cat(&[&h, &taken[0]], 1);
        }
        for ((resnet, attention), skip) in self.blocks.0.iter().zip(&taken) {
            if self.joins == Joins::Each {
                h = Tensor::cat(&[&h, skip], 1);
            }
            h = after(attention, resnet.forward(&h, around.embedded, around.train), around);
        }
        if self.carries_image {
            *image = image.as_ref().map(|image| Resample::FirUp.forward(image));
        }
        if let Up::Beside { skip_norm, skip_conv, .. } = &self.resample {
            let made = skip_conv.forward(&skip_norm.activated(&h, None, Activation::Silu));
            *image = Some(match image {
                Some(image) => &*image + made,
                None => made,
            });
        }
        h
    }

    /// To the next resolution: twice the size, or, by a convolution, that of the skip connection that comes next.
    pub fn resample(&self, h: Tensor, around: Surroundings<'_>, next: Option<[i64; 2]>) -> Tensor {
        match &self.resample {
            Up::Keep => h,
            Up::Conv(conv) => conv.forward(&h, next),
            Up::Block(block) | Up::Beside { block, .. } => block.forward(&h, around.embedded, around.train),
            Up::Filter(filter) => filter.forward(&h),
        }
    }
}
