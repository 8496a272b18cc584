//! Latent diffusion: whatever works on batches, on latents.

use heldout_core::{
    Autoencoder, Batch, BatchSource, Clock, Error, Evaluation, Objective, Result, persists_inner,
};
use std::rc::Rc;

/// An objective that is given the latents of a batch's images, or a source whose images come as latents.
///
/// Rombach et al. 2022, section 3.2, with a frozen autoencoder: no gradient goes to it. Batches whose `x_start` is latents
/// already, by its shape, pass by as they are. Hints stay images. What acts on pixels stands outside, what acts on latents
/// inside of the objective, and around the source.
///
/// Around a source the latents are made once a step; around an objective as often as it is evaluated.
#[derive(Debug)]
pub struct Encoded<I> {
    /// What works on latents, or gives images.
    pub inner: I,
    autoencoder: Rc<dyn Autoencoder>,
    images: [i64; 3],
    latents: [i64; 3],
}

persists_inner!(Encoded<I>);

impl<I> Encoded<I> {
    /// For images `[C, H, W]` that become latents `[c, h, w]`: see [`LatentModel::latent_shape`].
    ///
    /// # Errors
    /// Both shapes are the same, so that neither could be told from the other.
    ///
    /// [`LatentModel::latent_shape`]: crate::LatentModel::latent_shape
    pub fn new(
        inner: I,
        autoencoder: Rc<dyn Autoencoder>,
        images: [i64; 3],
        latents: [i64; 3],
    ) -> Result<Self> {
        if images == latents {
            let reason =
                format!("{latents:?} is the shape of the images as well: a smaller latent is needed");
            return Err(Error::config("latents", reason));
        }
        Ok(Self { inner, autoencoder, images, latents })
    }

    /// The batch with latents for `x_start`.
    fn encoded(&self, batch: &Batch) -> Result<Batch> {
        let shape = &batch.x_start.size()[1..];
        if shape == self.latents {
            return Ok(batch.shallow_clone());
        }
        if shape != self.images {
            let reason =
                format!("{shape:?}: images {:?} or latents {:?} are needed", self.images, self.latents);
            return Err(Error::config("x_start", reason));
        }
        if batch.known.is_some() || batch.cond.mask.is_some() {
            let reason =
                "says which pixels are known: leave it out, since an autoencoder mixes known and unknown";
            return Err(Error::config("mask", reason));
        }
        let latents = tch::no_grad(|| self.autoencoder.encode(&batch.x_start));
        Ok(Batch { x_start: latents, ..batch.shallow_clone() })
    }
}

impl<O: Objective> Objective for Encoded<O> {
    fn evaluate(&mut self, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let latents = self.encoded(batch)?;
        self.inner.evaluate(&latents, clock)
    }
}

impl<S: BatchSource> BatchSource for Encoded<S> {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        let batch = self.inner.batch(clock)?;
        self.encoded(&batch)
    }
}
