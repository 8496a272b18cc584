//! Guidance by a weaker model.

use heldout_core::{Cond, Denoiser, NoiseSchedule, Prepared};
use tch::{Kind, Tensor};

/// `weak + scale * (inner - weak)`; Karras et al. 2024 (autoguidance), Eq. 3.
///
/// The weaker model has the same task and schedule and less capacity or training.
#[derive(Debug)]
pub struct Autoguidance<D, W> {
    /// The model.
    pub inner: D,
    /// The weaker one.
    pub weak: W,
    /// 1 is no guidance; about 2 in the paper.
    pub scale: f64,
}

impl<D: Denoiser, W: Denoiser> Denoiser for Autoguidance<D, W> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    /// The variance is that of the stronger model.
    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let (hat, variance) = self.inner.denoise_with_variance(x_t, t, cond);
        (self.weak.denoise(x_t, t, cond).lerp(&hat, self.scale), variance)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }

    fn prepare<'a>(&'a self, t: &Tensor, kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        let (inner, weak) = (self.inner.prepare(t, kind)?, self.weak.prepare(t, kind)?);
        Some(Box::new(Autoguidance { inner, weak, scale: self.scale }))
    }
}

impl<'a> Prepared for Autoguidance<Box<dyn Prepared + 'a>, Box<dyn Prepared + 'a>> {
    fn denoise_with_variance(&self, i: usize, x_t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let (hat, variance) = self.inner.denoise_with_variance(i, x_t, cond);
        (self.weak.denoise_with_variance(i, x_t, cond).0.lerp(&hat, self.scale), variance)
    }
}
