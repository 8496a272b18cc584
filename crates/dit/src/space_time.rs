//! A diffusion transformer for short clips.

use crate::block::attention;
use crate::config::{DitConfig, Positions};
use crate::dit::Dit;
use heldout_core::{Backbone, Error, Input, Probe, Result, Site};
use heldout_nn::{Attention, AttentionInput, LayerNorm, Linear, ZERO, variable};
use serde::{Deserialize, Serialize};
use tch::{Tensor, nn};

/// Over which tokens of a clip attention goes; Bertasius et al. 2021, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum ClipAttention {
    /// Over time at each place, then over space in each frame.
    #[default]
    Divided,
    /// Over all places of all frames at once.
    Joint,
    /// Over space in each frame: frames do not see each other.
    SpaceOnly,
}

/// Sizes of a [`SpaceTimeDit`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SpaceTimeConfig {
    /// The image transformer that it is built of.
    pub image: DitConfig,
    /// Frames that positions in time are learned for; other numbers take the nearest.
    pub frames: i64,
    /// Over which tokens attention goes.
    pub attention: ClipAttention,
}

impl SpaceTimeConfig {
    /// Which field cannot be honoured, and why.
    pub fn check(&self) -> Result<()> {
        self.image.check().map_err(|e| e.within("image"))?;
        if self.frames < 1 {
            return Err(Error::config("frames", format!("{}: at least 1 is needed", self.frames)));
        }
        if self.attention == ClipAttention::Joint && self.image.positions == Positions::Rotary {
            let reason = "joint needs positions = \"sin_cos\": rotary ones turn by places of one frame";
            return Err(Error::config("attention", reason));
        }
        Ok(())
    }

    /// Whether clips `[C T, H, W]` fit, their frames as channels.
    pub fn check_images(&self, channels: i64, height: i64, width: i64) -> Result<()> {
        let (frames, each) = (self.frames, self.image.in_channels);
        if channels != frames * each {
            let reason = format!(
                "{frames} of in_channels = {each} for examples of {channels} channels: clips of as many frames are needed"
            );
            return Err(Error::config("frames", reason));
        }
        self.image.check_images(each, height, width).map_err(|e| e.within("image"))
    }
}

/// Attention over time at each place, behind a norm and before a linear layer that starts at 0.
#[derive(Debug)]
struct Temporal {
    norm: LayerNorm,
    attn: Attention,
    fc: Linear,
}

impl Temporal {
    /// Under `vs`: `temporal_norm1`, `temporal_attn`, `temporal_fc`.
    fn new(vs: &nn::Path<'_>, config: &DitConfig) -> Self {
        let width = config.width;
        Self {
            norm: LayerNorm::new(&(vs / "temporal_norm1"), width, 1e-6),
            attn: attention(&(vs / "temporal_attn"), config),
            fc: Linear::zero(&(vs / "temporal_fc"), width, width),
        }
    }

    /// `x` `[B T, L, width]`, `activated` `[B T, width]`.
    fn forward(&self, x: &Tensor, activated: &Tensor, frames: i64) -> Tensor {
        let size = x.size();
        let (places, width) = (size[1], size[2]);
        let by_place = |t: Tensor| t.view([-1, frames, places, width]).transpose(1, 2);
        let tokens = by_place(self.norm.forward(x)).reshape([-1, frames, width]); // [B L, T, width]
        let clips = activated.view([-1, frames, width]).select(1, 0);
        let time = clips.repeat_interleave_self_int(places, 0, None::<i64>);
        let input = AttentionInput { time: Some(&time), ..AttentionInput::default() };
        let h = self.fc.forward(&self.attn.forward(&tokens, input));
        x + h.view([-1, places, frames, width]).transpose(1, 2).reshape(size)
    }
}

/// A diffusion transformer for clips `[B, C, T, H, W]`: the blocks of [`Dit`], with time as in TimeSformer.
///
/// Law: with the weights of a [`Dit`] and everything temporal as it starts, divided and space-only attention give that
/// network's output on every frame, bit for bit.
#[derive(Debug)]
pub struct SpaceTimeDit {
    image: Dit,
    time_embed: Tensor,
    temporal: Vec<Temporal>,
    attention: ClipAttention,
}

impl SpaceTimeDit {
    /// Under `vs`: what [`Dit::new`] makes, `time_embed` and, for divided attention, `temporal_norm1`, `temporal_attn` and
    /// `temporal_fc` in each block.
    pub fn new(vs: &nn::Path<'_>, config: &SpaceTimeConfig) -> Result<Self> {
        config.check()?;
        let SpaceTimeConfig { image, frames, attention } = config;
        let depth = if *attention == ClipAttention::Divided { image.depth } else { 0 };
        Ok(Self {
            image: Dit::new(vs, image)?,
            time_embed: variable(vs, "time_embed", &[1, *frames, image.width], ZERO),
            temporal: (0..depth).map(|i| Temporal::new(&(vs / "transformer_blocks" / i), image)).collect(),
            attention: *attention,
        })
    }

    /// The image transformer inside.
    pub fn image(&self) -> &Dit {
        &self.image
    }

    /// The positions of `frames` frames, `[1, T, width]`: the nearest of those that are learned.
    pub(crate) fn times(&self, frames: i64) -> Tensor {
        if self.time_embed.size()[1] == frames {
            return self.time_embed.shallow_clone();
        }
        self.time_embed.transpose(1, 2).upsample_nearest1d([frames], None).transpose(1, 2)
    }
}

impl Backbone for SpaceTimeDit {
    /// `[B, in_channels, T, H, W] -> [B, out_channels, T, H, W]`.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let size = input.x.size();
        let (clips, frames, height, width) = (size[0], size[2], size[3], size[4]);
        let folded = input.x.transpose(1, 2).flatten(0, 1); // [B T, C, H, W]
        let (tokens, place) = self.image.trunk.pos_embed.forward(&folded);
        let places = tokens.size()[1];
        let joined = |t: &Tensor| t.view([clips, frames * places, -1]);
        let mut tokens =
            (tokens.view([clips, frames, places, -1]) + self.times(frames).unsqueeze(2)).flatten(0, 1);
        // Every frame is told for itself, as a batch of images would be: the same numbers to the last bit.
        let each = |t: &Tensor| t.repeat_interleave_self_int(frames, 0, None::<i64>);
        // A class is dropped for a whole clip.
        let labels = self.image.trunk.labels(input.cond, clips, input.train).as_ref().map(each);
        let conditions = self.image.trunk.conditions(&each(input.noise_level), labels.as_ref());
        for (i, block) in self.image.trunk.blocks.iter().enumerate() {
            let activated = conditions.activated(i);
            if let Some(temporal) = self.temporal.get(i) {
                tokens = temporal.forward(&tokens, activated, frames);
            }
            tokens = match self.attention {
                ClipAttention::Joint => {
                    block.arranged(&tokens, activated, &place, input.train, |tokens, attend| {
                        let time = activated.view([clips, frames, -1]).select(1, 0);
                        attend(&joined(tokens), &time).view(tokens.size().as_slice())
                    })
                }
                ClipAttention::Divided | ClipAttention::SpaceOnly => {
                    block.forward(&tokens, activated, &place, input.train)
                }
            };
            tokens = probe.at(Site::Block(i), tokens);
        }
        let out = self.image.last.forward(&tokens, conditions.last(), height, width);
        out.unflatten(0, [clips, frames]).transpose(1, 2)
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        let size = input.x.size();
        if size.len() != 5 {
            return Err(Error::config("sample", format!("is of shape {size:?}: [B, C, T, H, W] is needed")));
        }
        self.image.trunk.check_sizes(&size, "[B, C, T, H, W]")?;
        self.image.trunk.check_rows(size[0], input)
    }
}
