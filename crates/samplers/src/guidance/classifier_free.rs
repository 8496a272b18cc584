//! Classifier-free guidance.

use super::under;
use heldout_core::{Cond, Denoiser, NoiseSchedule, Parameterization, like};
use tch::{Kind, Tensor};

/// `null + scale * (conditional - null)`; Ho and Salimans 2022, Eq. 6, where `scale` is `w + 1`.
///
/// Both estimates come from one pass of twice the batch. At `scale` 1 only the conditional one is made.
#[derive(Debug)]
pub struct ClassifierFree<D> {
    /// The model.
    pub inner: D,
    /// The condition that stands for none, of one row: for class labels the class count; nothing for models that take
    /// nothing.
    pub null: Cond,
    /// 1 is no guidance; 7.5 in Stable Diffusion.
    pub scale: f64,
    /// What keeps large scales from overexposing.
    pub rescale: Option<Rescale>,
}

/// The guided prediction gets the standard deviation of the conditional one, by a share; Lin et al. 2024, Eq. 14 to 16.
#[derive(Debug)]
pub struct Rescale {
    /// The share `phi`; 0.7 in the paper.
    pub phi: f64,
    /// The prediction whose deviation counts: what the network predicts, in the paper and in diffusers.
    pub prediction: Box<dyn Parameterization>,
}

impl<D: Denoiser> Denoiser for ClassifierFree<D> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.denoise_with_variance(x_t, t, cond).0
    }

    /// The variance is the conditional one.
    fn denoise_with_variance(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        if self.scale == 1.0 {
            return self.inner.denoise_with_variance(x_t, t, cond);
        }
        let (hats, variance) = under(&self.inner, x_t, t, &[cond, &self.null]);
        let guided = hats[1].lerp(&hats[0], self.scale);
        match &self.rescale {
            None => (guided, variance),
            Some(rescale) => (rescale.apply(self.schedule(), x_t, t, &hats[0], &guided), variance),
        }
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }
}

impl Rescale {
    fn apply(
        &self,
        schedule: &dyn NoiseSchedule,
        x_t: &Tensor,
        t: &Tensor,
        plain: &Tensor,
        guided: &Tensor,
    ) -> Tensor {
        let s = self.prediction.scalings(&schedule.marginal(t));
        let base = like(&s.c_skip, x_t) * x_t;
        let c_out = like(&s.c_out, x_t);
        let raw = |hat: &Tensor| (hat - &base) / &c_out;
        let std = |raw: &Tensor| raw.flatten(1, -1).std_dim(1i64, true, false);
        let guided = raw(guided);
        let factor = std(&raw(plain)) / std(&guided) * self.phi + (1.0 - self.phi);
        base + c_out * guided * like(&factor.to_kind(Kind::Double), x_t)
    }
}
