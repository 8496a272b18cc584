//! Ambient diffusion: data with pixels missing.

use super::mask;
use heldout_core::{Batch, BatchSource, Clock, Error, Known, Result, stream};
use serde::{Deserialize, Serialize};
use tch::Device;

/// [`Ambient`] as a recipe writes it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AmbientConfig {
    /// Share of the pixels of every example that nobody ever sees, in [0, 1).
    pub missing: f64,
    /// Share of the pixels left that the network does not see in a step, in [0, 1).
    pub further: f64,
    /// Seed of the masks.
    #[serde(default)]
    pub seed: u64,
}

impl AmbientConfig {
    /// Whether the shares leave anything.
    pub fn check(&self) -> Result<()> {
        for (field, share) in [("missing", self.missing), ("further", self.further)] {
            if !(0.0..1.0).contains(&share) {
                return Err(Error::config(
                    field,
                    format!("{share} is not in [0, 1): some pixels must be left"),
                ));
            }
        }
        Ok(())
    }

    /// Whether all is known.
    pub(super) fn is_absent(&self) -> bool {
        self.missing == 0.0 && self.further == 0.0
    }

    /// Probability that the network does not see a pixel.
    pub(super) fn hidden(&self) -> f64 {
        1.0 - (1.0 - self.missing) * (1.0 - self.further)
    }
}

/// Hides a share of the pixels of every example for good, and a further share in each step; Daras et al. 2023 ("Ambient
/// Diffusion: Learning Clean Distributions from Corrupted Data"), section 3.
///
/// `x_start` `[B, C, H, W]` becomes `A x_start` with a mask `A` `[B, 1, H, W]` that is a function of the seed and of
/// [`Batch::index`]: the same in every step and every batch. The network sees `A A'`, with `A'` drawn afresh in each step,
/// and is told so by `cond.mask`; the loss is taken over `A`. So it must guess pixels that are known and that it does not
/// see, and cannot tell them from those that nobody knows: what is optimal for the former is optimal for all.
///
/// Goes around the data and within the augmentations, which must move [`Batch::known`] and `cond.mask` as they move the
/// images. The network is a [`MaskedInput`](super::MaskedInput).
///
/// Only a network that predicts `x_start` can be trained so (`c_skip` 0): `x_start_hat` may depend on `x_t` only through
/// the mask, and the noise of a pixel that is not seen cannot be guessed.
///
/// Law: what `x_start` is where it is unknown changes nothing, to the last bit. Law: with both shares 0 the batch is as it
/// was. Draws nothing from libtorch's generator.
#[derive(Debug)]
pub struct Ambient<S> {
    source: S,
    config: AmbientConfig,
}

impl<S> Ambient<S> {
    /// Around the clean data, with the shares checked.
    pub fn new(source: S, config: AmbientConfig) -> Result<Self> {
        config.check()?;
        Ok(Self { source, config })
    }
}

impl<S: BatchSource> BatchSource for Ambient<S> {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        let mut batch = self.source.batch(clock)?;
        let AmbientConfig { missing, further, seed } = self.config;
        if self.config.is_absent() {
            return Ok(batch);
        }
        let size = batch.x_start.size();
        let &[_, _, height, width] = size.as_slice() else {
            return Err(Error::config("x_start", format!("shape {size:?} is not [B, C, H, W]")));
        };
        let Some(index) = &batch.index else {
            let reason = "is missing, and the pixels of an example are hidden by its place: use a source that tells it";
            return Err(Error::config("batch.index", reason));
        };
        let index = Vec::<i64>::try_from(index.to_device(Device::Cpu))?;
        let (kind, device) = (batch.x_start.kind(), batch.x_start.device());
        let of = |key, share| mask(key, &index, [height, width], share, device).to_kind(kind);
        let loss = of(stream(seed, "ambient", 0, 0), missing);
        let input = &loss * of(stream(seed, "ambient further", clock.step, 0), further);
        batch.x_start = batch.x_start.masked_fill(&loss.eq(0.0), 0.0);
        batch.cond.mask = Some(input.shallow_clone());
        batch.known = Some(Known { loss, input });
        Ok(batch)
    }
}
