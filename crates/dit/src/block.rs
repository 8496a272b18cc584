//! One block of the transformer.

use crate::config::{DitConfig, NormKind};
use crate::embedding::Place;
use heldout_nn::{
    Attention, AttentionInput, AttentionShape, FeedForward, LayerNorm, Linear, ModulatedNorm, RmsNorm, gated,
};
use tch::{Tensor, nn};

/// adaLN-Zero: attention and feed-forward behind norms whose scales, shifts and gates are linear in the condition; Peebles
/// and Xie 2023, section 3.2. Parameter names of diffusers' `BasicTransformerBlock`.
///
/// Law: the identity at initialisation.
#[derive(Debug)]
pub(crate) struct Block {
    linear: Linear,
    norm1: ModulatedNorm,
    attn1: Attention,
    norm3: ModulatedNorm,
    ff: FeedForward,
    dropout: f64,
}

fn norm(vs: &nn::Path<'_>, config: &DitConfig, affine: bool, eps: f64) -> ModulatedNorm {
    match config.norm {
        NormKind::Layer if affine => ModulatedNorm::Layer(LayerNorm::new(vs, config.width, eps)),
        NormKind::Layer => ModulatedNorm::Layer(LayerNorm::plain(config.width, eps)),
        NormKind::Rms => ModulatedNorm::Rms(RmsNorm::new(vs, config.width, eps)),
    }
}

/// The attention of one block over tokens of this configuration.
pub(crate) fn attention(vs: &nn::Path<'_>, config: &DitConfig) -> Attention {
    let DitConfig { width, heads, attention_bias, qk_norm, time_attention, .. } = *config;
    let plain = AttentionShape::new(width, heads, width / heads, attention_bias);
    Attention::new(vs, AttentionShape { qk_norm, time: (time_attention, width), ..plain }, Linear::xavier)
}

impl Block {
    /// Under `vs`: `norm1.linear`, `attn1`, `ff`, and weights of norms where they have any.
    pub(crate) fn new(vs: &nn::Path<'_>, config: &DitConfig) -> Self {
        let width = config.width;
        Self {
            linear: Linear::zero(&(vs / "norm1" / "linear"), width, 6 * width),
            norm1: norm(&(vs / "norm1" / "norm"), config, false, 1e-6),
            attn1: attention(&(vs / "attn1"), config),
            norm3: norm(&(vs / "norm3"), config, config.norm_affine, config.norm_eps),
            ff: FeedForward::new(
                &(vs / "ff"),
                config.feed_forward,
                width,
                config.inner(),
                config.dropout,
                Linear::xavier,
            ),
            dropout: config.dropout,
        }
    }

    /// `x` `[B, L, width]`, `activated` `[B, width]` (the condition after SiLU) to `[B, L, width]`. `arrange` brings tokens
    /// into the form over which attention goes, and back.
    pub(crate) fn forward(&self, x: &Tensor, activated: &Tensor, place: &Place, train: bool) -> Tensor {
        self.arranged(x, activated, place, train, |tokens, attend| attend(tokens, activated))
    }

    /// The same with attention over tokens that `arrange` groups in another way: it is given the normed tokens and the
    /// attention with its condition for each group.
    pub(crate) fn arranged(
        &self,
        x: &Tensor,
        activated: &Tensor,
        place: &Place,
        train: bool,
        arrange: impl FnOnce(&Tensor, &dyn Fn(&Tensor, &Tensor) -> Tensor) -> Tensor,
    ) -> Tensor {
        let parts = self.linear.forward(activated).chunk(6, 1);
        let [shift_1, scale_1, gate_1, shift_2, scale_2, gate_2] = &parts[..] else {
            unreachable!("a chunk into 6 has 6 parts")
        };
        let rotary = match place {
            Place::Turned(rotary) => Some(rotary),
            Place::Added(_) => None,
        };
        let attend = |tokens: &Tensor, time: &Tensor| {
            let input = AttentionInput { time: Some(time), rotary, ..AttentionInput::default() };
            self.attn1.forward(tokens, input)
        };
        let h = arrange(&self.norm1.forward(x, shift_1, scale_1), &attend);
        let h = if self.dropout > 0.0 { h.dropout(self.dropout, train) } else { h };
        let x = gated(x, gate_1, &h);
        let h = self.ff.forward(&self.norm3.forward(&x, shift_2, scale_2), train);
        gated(&x, gate_2, &h)
    }
}
