//! T2I-Adapter: features of a hint, added to a UNet's encoder on the way down.

use crate::hint::check_hint;
use heldout_core::{Adapter, Error, Input, Residuals, Result, Site};
use heldout_nn::{Activation, Conv2d};
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

/// The kinds of diffusers' `T2IAdapter`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum T2iAdapterType {
    /// Halves the size before every level but the first.
    FullAdapter,
    /// For Stable Diffusion XL, whose first level halves the size before it is shown: halves it once, before the third.
    FullAdapterXl,
    /// Blocks of a quarter of the channels, and one level more than there are widths.
    LightAdapter,
}

/// The configuration of diffusers' `T2IAdapter`, with its defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are diffusers', and documented there")]
pub struct T2iAdapterConfig {
    pub in_channels: i64,
    pub channels: Vec<i64>,
    pub num_res_blocks: usize,
    pub downscale_factor: i64,
    pub adapter_type: T2iAdapterType,
}

impl Default for T2iAdapterConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            channels: vec![320, 640, 1280, 1280],
            num_res_blocks: 2,
            downscale_factor: 8,
            adapter_type: T2iAdapterType::FullAdapter,
        }
    }
}

impl T2iAdapterConfig {
    /// Which field cannot be honoured, and why.
    pub fn check(&self) -> Result<()> {
        let light = self.adapter_type == T2iAdapterType::LightAdapter;
        let least = if light { 4 } else { 1 };
        if self.channels.is_empty() || self.channels.len() > 8 {
            let reason = format!("{} widths: 1 to 8 are possible", self.channels.len());
            return Err(Error::config("channels", reason));
        }
        let widths = self.channels.iter().map(|n| ("channels", *n, least));
        let others = [("in_channels", self.in_channels, 1), ("downscale_factor", self.downscale_factor, 1)];
        for (field, n, least) in widths.chain(others) {
            if n < least {
                return Err(Error::config(field, format!("{n}: at least {least} is needed")));
            }
        }
        let is_xl = self.adapter_type == T2iAdapterType::FullAdapterXl;
        if is_xl && self.channels.windows(2).skip(2).any(|pair| pair[0] != pair[1]) {
            let reason = format!("{:?}: full_adapter_xl has one width from the third on", self.channels);
            return Err(Error::config("channels", reason));
        }
        Ok(())
    }
}

/// One level: halves the size or not, then residual blocks.
#[derive(Debug)]
struct Level {
    halves: bool,
    conv_in: Option<Conv2d>,
    blocks: Vec<[Conv2d; 2]>,
    conv_out: Option<Conv2d>,
}

impl Level {
    /// diffusers' `AdapterBlock`: 0 where its input is 0, at initialisation.
    fn full(vs: &nn::Path<'_>, [from, to]: [i64; 2], blocks: usize, halves: bool) -> Self {
        let block = |j| {
            let vs = vs / "resnets" / j;
            [Conv2d::new(&(&vs / "block1"), to, to, 3, 1), Conv2d::zero(&(&vs / "block2"), to, to, 1)]
        };
        // Patches of side 1: a projection with a bias of 0.
        let conv_in = (from != to).then(|| Conv2d::patches(&(vs / "in_conv"), from, to, 1));
        Self { halves, conv_in, blocks: (0..blocks).map(block).collect(), conv_out: None }
    }

    /// diffusers' `LightAdapterBlock`: 0 at initialisation.
    fn light(vs: &nn::Path<'_>, [from, to]: [i64; 2], blocks: usize, halves: bool) -> Self {
        let inner = to / 4;
        let block = |j| {
            let vs = vs / "resnets" / j;
            ["block1", "block2"].map(|name| Conv2d::new(&(&vs / name), inner, inner, 3, 1))
        };
        Self {
            halves,
            conv_in: Some(Conv2d::new(&(vs / "in_conv"), from, inner, 1, 1)),
            blocks: (0..blocks).map(block).collect(),
            conv_out: Some(Conv2d::zero(&(vs / "out_conv"), inner, to, 1)),
        }
    }

    fn forward(&self, x: &Tensor) -> Tensor {
        let mut h = match self.halves {
            true => x.avg_pool2d([2, 2], [2, 2], [0, 0], true, true, None),
            false => x.shallow_clone(),
        };
        if let Some(conv) = &self.conv_in {
            h = conv.forward(&h);
        }
        for [first, second] in &self.blocks {
            h = second.forward(&Activation::Relu.apply(&first.forward(&h))) + h;
        }
        match &self.conv_out {
            Some(conv) => conv.forward(&h),
            None => h,
        }
    }
}

/// Mou et al. 2023, section 3, with the parameter names of diffusers' `T2IAdapter`: features of a hint at several resolutions,
/// each added to the encoder's state at the end of a level; one more than there are levels goes to the middle.
///
/// It does not look at `x_t`. Law: every residual is 0 at initialisation; diffusers' own start is not.
#[derive(Debug)]
pub struct T2iAdapter {
    conv_in: Option<Conv2d>,
    body: Vec<Level>,
    config: T2iAdapterConfig,
}

impl T2iAdapter {
    /// Parameters are made under `vs` with diffusers' names, from libtorch's generator.
    pub fn new(vs: &nn::Path<'_>, config: &T2iAdapterConfig) -> Result<Self> {
        config.check()?;
        let T2iAdapterConfig { in_channels, channels, num_res_blocks, downscale_factor, adapter_type } =
            config;
        let vs = vs / "adapter";
        let (first, folded) = (channels[0], in_channels * downscale_factor.pow(2));
        let level = |i: usize| {
            let (vs, blocks) = (&vs / "body" / i, *num_res_blocks);
            let full = [channels[i.saturating_sub(1)], channels[i.min(channels.len() - 1)]];
            match adapter_type {
                T2iAdapterType::FullAdapter => Level::full(&vs, full, blocks, i > 0),
                T2iAdapterType::FullAdapterXl => Level::full(&vs, full, blocks, i == 2),
                T2iAdapterType::LightAdapter if i == 0 => Level::light(&vs, [folded, first], blocks, false),
                T2iAdapterType::LightAdapter => Level::light(&vs, full, blocks, true),
            }
        };
        let light = *adapter_type == T2iAdapterType::LightAdapter;
        Ok(Self {
            conv_in: (!light).then(|| Conv2d::zero(&(&vs / "conv_in"), folded, first, 3)),
            body: (0..channels.len() + usize::from(light)).map(level).collect(),
            config: config.clone(),
        })
    }

    /// `hint` `[B, in_channels, H, W]` to one `[B, channels, ..]` for each level.
    pub fn features(&self, hint: &Tensor) -> Vec<Tensor> {
        let mut h = hint.pixel_unshuffle(self.config.downscale_factor);
        if let Some(conv) = &self.conv_in {
            h = conv.forward(&h);
        }
        let level = |level: &Level| {
            h = level.forward(&h);
            h.shallow_clone()
        };
        self.body.iter().map(level).collect()
    }
}

impl Adapter for T2iAdapter {
    fn residuals(&self, input: Input<'_>) -> Residuals {
        let features = input.cond.hint.as_ref().map(|hint| self.features(hint));
        Residuals(self.sites().into_iter().zip(features.into_iter().flatten()).collect())
    }

    fn sites(&self) -> Vec<Site> {
        (0..self.body.len()).map(Site::Level).collect()
    }

    fn hint_channels(&self) -> i64 {
        self.config.in_channels
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        let per = if self.config.adapter_type == T2iAdapterType::FullAdapterXl { 2 } else { 1 };
        check_hint(input, self.config.in_channels, self.config.downscale_factor, per)
    }
}
