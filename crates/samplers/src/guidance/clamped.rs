//! Static thresholding.

use heldout_core::{Cond, Denoiser, NoiseSchedule, Prepared};
use tch::{Kind, Tensor};

/// `x_start_hat` cut to `[-limit, limit]`; Saharia et al. 2022 (Imagen), section 2.3, static thresholding.
#[derive(Debug)]
pub struct Clamped<D> {
    /// The model.
    pub inner: D,
    /// Half the range of the data: 1 for images in `[-1, 1]`.
    pub limit: f64,
}

impl<D: Denoiser> Denoiser for Clamped<D> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let (hat, variance) = self.inner.denoise_with_variance(x_t, t, cond);
        (hat.clamp(-self.limit, self.limit), variance)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }

    fn prepare<'a>(&'a self, t: &Tensor, kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        Some(Box::new(Clamped { inner: self.inner.prepare(t, kind)?, limit: self.limit }))
    }
}

impl<'a> Prepared for Clamped<Box<dyn Prepared + 'a>> {
    fn denoise_with_variance(&self, i: usize, x_t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        let (hat, variance) = self.inner.denoise_with_variance(i, x_t, cond);
        (hat.clamp(-self.limit, self.limit), variance)
    }
}
