#![doc = include_str!("../README.md")]

mod activation;
mod attention;
mod feed_forward;
mod grounding;
mod image_attention;
mod layers;
mod low_rank;
mod modulation;
mod position;
mod resample;
mod resblock;
mod tally;
mod time_embedding;
mod transformer;

pub use activation::Activation;
pub use attention::{
    Attention, AttentionInput, AttentionShape, MakeLinear, QkNorm, TimeAttention, attend, attend_in_f32,
    mask_bias,
};
pub use feed_forward::{FeedForward, FeedForwardKind};
pub use grounding::{Grounding, PositionNet};
pub use heldout_torch_ext::meta;
pub use image_attention::{
    AddedAttention, AddedAttentionShape, ContextNorm, NormedAttention, NormedAttentionShape, SelfAttention,
    Surroundings, to_image, to_tokens,
};
pub use layers::{Conv2d, Embedding, GroupNorm, LayerNorm, Linear, RmsNorm, ZERO, variable};
pub use low_rank::{LowRankSite, LowRankSites, adaptable};
pub use modulation::{ModulatedNorm, gated};
pub use position::{Rotary, sin_cos, sin_cos_2d};
pub use resample::{Downsample, Resample, Upsample};
pub use resblock::{AdaGroupNorm, Embedded, ResBlock, ResBlockShape, TimeNorm};
pub use tally::{Cost, count, same_place, without_storage};
pub use time_embedding::{EmbeddingMlp, MlpOptions, TimeEmbedding, TimeEmbeddingConfig, sinusoidal};
pub use transformer::{Transformer2d, Transformer2dShape};

#[cfg(test)]
mod tests;
