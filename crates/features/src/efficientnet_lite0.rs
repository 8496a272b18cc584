//! EfficientNet-Lite0, trained on ImageNet-1k.

use crate::images::{ImageInput, Resize};
use heldout_core::{Error, FeatureExtractor, FeatureOutput, Result};
use heldout_weights::WeightFiles;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Of the batch norms.
const EPS: f64 = 1e-3;
/// Blocks whose depthwise convolution halves the image.
const HALVING: [usize; 4] = [1, 3, 5, 11];
/// The last block of each size of image.
const LAST: [usize; 5] = [0, 2, 4, 10, 15];
const BLOCKS: usize = 16;
/// Channels of the 14x14 maps that are kept with their place.
const SPATIAL_CHANNELS: i64 = 7;

/// EfficientNet-Lite0: features `[B, 1280]` behind the global mean, ImageNet logits `[B, 1000]`, and `[B, 1372]` with their
/// place, the first 7 channels of the 14x14 maps.
///
/// Tan and Le 2019, section 4, in its form without squeeze-and-excitation and with ReLU6; weights by the names of the
/// published checkpoint, as `cargo xtask datasets fetch efficientnet-lite0` leaves them. Images of other sizes are
/// resized to 224 by [`Resize::Bicubic`]; input is `(255 x - 127) / 128`.
#[derive(Debug)]
pub struct EfficientNetLite0 {
    stem: Conv,
    blocks: Vec<Block>,
    head: Conv,
    /// `[1000, 1280]`.
    weight: Tensor,
    bias: Tensor,
}

/// A convolution with its batch norm folded in, and TensorFlow's "same" padding: at stride 2 on even sides one pixel more
/// at the right and below.
#[derive(Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: i64,
    groups: i64,
    relu6: bool,
}

/// Expand, depthwise, project; added to its input where the shapes are equal.
#[derive(Debug)]
struct Block {
    convs: Vec<Conv>,
    adds: bool,
}

impl Conv {
    /// `conv.weight` with the norm `norm` of its output. A depthwise one has one channel in each filter.
    fn read(files: &WeightFiles, conv: &str, norm: &str, stride: i64, relu6: bool) -> Result<Self> {
        let read = |name: String| Ok::<_, Error>(files.read(&name)?.to_kind(Kind::Double));
        let weight = read(format!("{conv}.weight"))?;
        let size = weight.size();
        let [to, from, ..] = size[..] else {
            return Err(Error::file(files.path(), format!("{conv}.weight: {size:?} is no convolution")));
        };
        let part = |part: &str| {
            let t = read(format!("{norm}.{part}"))?;
            if t.size() == [to] {
                return Ok(t);
            }
            let reason = format!("{norm}.{part}: {:?} where [{to}] is needed", t.size());
            Err(Error::file(files.path(), reason))
        };
        let scale = part("weight")? / (part("running_var")? + EPS).sqrt();
        let bias = part("bias")? - part("running_mean")? * &scale;
        let weight = weight * scale.view([-1, 1, 1, 1]);
        let f32s = |t: Tensor| t.to_kind(Kind::Float);
        let groups = if conv.ends_with("_depthwise_conv") && from == 1 { to } else { 1 };
        Ok(Self { weight: f32s(weight), bias: f32s(bias), stride, groups, relu6 })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let kernel = self.weight.size()[2];
        // What is missing for one output a stride, on both sides together.
        let missing = |n: i64| ((n - 1) / self.stride * self.stride + kernel - n).max(0);
        let size = x.size();
        let (rows, columns) = (missing(size[2]), missing(size[3]));
        let (stride, groups) = ([self.stride; 2], self.groups);
        let convolve = |x: &Tensor, padding: [i64; 2]| {
            x.f_conv2d(&self.weight, Some(&self.bias), stride, padding, [1, 1], groups)
        };
        let out = if rows % 2 == 0 && columns % 2 == 0 {
            convolve(x, [rows / 2, columns / 2])?
        } else {
            let sides = [columns / 2, columns - columns / 2, rows / 2, rows - rows / 2];
            convolve(&x.f_constant_pad_nd(sides)?, [0, 0])?
        };
        Ok(if self.relu6 { out.f_relu6()? } else { out })
    }
}

impl Block {
    fn read(files: &WeightFiles, i: usize) -> Result<Self> {
        let name = |part: &str| format!("_blocks.{i}.{part}");
        let halves = HALVING.contains(&i);
        let stride = if halves { 2 } else { 1 };
        let mut convs = Vec::new();
        if files.shape(&name("_expand_conv.weight")).is_some() {
            convs.push(Conv::read(files, &name("_expand_conv"), &name("_bn0"), 1, true)?);
        }
        convs.push(Conv::read(files, &name("_depthwise_conv"), &name("_bn1"), stride, true)?);
        convs.push(Conv::read(files, &name("_project_conv"), &name("_bn2"), 1, false)?);
        let first = &convs[0];
        let from = first.weight.size()[1] * first.groups;
        let to = convs[convs.len() - 1].weight.size()[0];
        Ok(Self { adds: !halves && from == to, convs })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut out = x.shallow_clone();
        for conv in &self.convs {
            out = conv.forward(&out)?;
        }
        Ok(if self.adds { x + out } else { out })
    }
}

impl EfficientNetLite0 {
    /// Reads the weights of a safetensors file; f32, whatever the file has.
    ///
    /// # Errors
    /// The file is missing or damaged, or its tensors are others.
    pub fn open(path: &Path) -> Result<Self> {
        let files = WeightFiles::open(path, None)?;
        let last = format!("_blocks.{BLOCKS}._depthwise_conv.weight");
        if files.shape(&last).is_some() {
            let reason = format!("has more than {BLOCKS} blocks: Lite0's weights are needed");
            return Err(Error::file(path, reason));
        }
        let f32s = |name| Ok::<_, Error>(files.read(name)?.to_kind(Kind::Float));
        let (weight, bias) = (f32s("_fc.weight")?, f32s("_fc.bias")?);
        Ok(Self {
            stem: Conv::read(&files, "_conv_stem", "_bn0", 2, true)?,
            blocks: (0..BLOCKS).map(|i| Block::read(&files, i)).collect::<Result<_>>()?,
            head: Conv::read(&files, "_conv_head", "_bn1", 1, true)?,
            weight,
            bias,
        })
    }

    /// The same on a device.
    #[must_use]
    pub fn to_device(mut self, device: Device) -> Self {
        let convs = self.blocks.iter_mut().flat_map(|b| &mut b.convs);
        for conv in convs.chain([&mut self.stem, &mut self.head]) {
            conv.weight = conv.weight.to_device(device);
            conv.bias = conv.bias.to_device(device);
        }
        self.weight = self.weight.to_device(device);
        self.bias = self.bias.to_device(device);
        self
    }

    /// What the network is given.
    pub const INPUT: ImageInput = ImageInput {
        size: Some(224),
        resize: Resize::Bicubic,
        range: [0.0, 255.0],
        mean: [127.0; 3],
        std: [128.0; 3],
    };

    /// The maps behind the last block of each size: 16 channels of 112x112, 24 of 56x56, 40 of 28x28, 112 of 14x14 and 320 of
    /// 7x7, each `[B, C, H, W]`; what distances of images and the alignment of representations compare.
    ///
    /// # Errors
    /// The images are of another shape or kind.
    pub fn stages(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let input = Self::INPUT.prepare(images)?.to_kind(Kind::Float).to_device(self.weight.device());
        let mut x = self.stem.forward(&input)?;
        let mut stages = Vec::with_capacity(LAST.len());
        for (i, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x)?;
            if LAST.contains(&i) {
                stages.push(x.shallow_clone());
            }
        }
        Ok(stages)
    }
}

impl FeatureExtractor for EfficientNetLite0 {
    fn name(&self) -> &str {
        "EfficientNet-Lite0"
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        let stages = self.stages(images)?;
        let features = self.head.forward(&stages[4])?.f_mean_dim([2i64, 3].as_slice(), false, Kind::Float)?;
        let logits = features.f_linear(&self.weight, Some(&self.bias))?;
        let spatial = stages[3].narrow(1, 0, SPATIAL_CHANNELS).flatten(1, -1);
        Ok(FeatureOutput { features, logits: Some(logits), spatial: Some(spatial) })
    }
}
