//! Classifier-free guidance.

use super::{under, under_at};
use heldout_core::{Cond, Denoiser, NoiseSchedule, Parameterization, Prepared, Scalings, like};
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
    /// Which channels are guided.
    pub channels: GuidedChannels,
}

/// Which channels guidance acts on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuidedChannels {
    /// All.
    #[default]
    All,
    /// The first three, the others are the conditional ones: what the code of DiT (Peebles and Xie 2023) and its kin does to
    /// latents of four channels, and what their reported numbers were made with.
    FirstThree,
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
        let (hats, variance) = under_at(&self.inner, x_t, t, &[cond, &self.null]);
        let scalings = |r: &Rescale| r.prediction.scalings(&self.schedule().marginal(t));
        (self.guided(x_t, &hats, self.rescale.as_ref().map(scalings)), variance)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.inner.schedule()
    }

    fn prepare<'a>(&'a self, t: &Tensor, kind: Kind) -> Option<Box<dyn Prepared + 'a>> {
        let scalings = |r: &Rescale| r.prediction.scalings(&self.schedule().marginal(t));
        let scalings = self.rescale.as_ref().map(scalings);
        Some(Box::new(PreparedClassifierFree {
            guidance: self,
            inner: self.inner.prepare(t, kind)?,
            scalings,
        }))
    }
}

impl<D> ClassifierFree<D> {
    /// The channels that are not guided are the conditional ones again.
    fn restored(&self, guided: Tensor, conditional: &Tensor) -> Tensor {
        let channels = guided.size()[1];
        match self.channels {
            GuidedChannels::FirstThree if channels > 3 => {
                Tensor::cat(&[guided.narrow(1, 0, 3), conditional.narrow(1, 3, channels - 3)], 1)
            }
            _ => guided,
        }
    }

    /// From the conditional and the null estimate; `scalings`, of one row or of all, belong to `rescale`.
    fn guided(&self, x_t: &Tensor, hats: &[Tensor], scalings: Option<Scalings>) -> Tensor {
        let guided = self.restored(hats[1].lerp(&hats[0], self.scale), &hats[0]);
        let Some((rescale, s)) = self.rescale.as_ref().zip(scalings) else { return guided };
        let base = like(&s.c_skip, x_t) * x_t;
        let c_out = like(&s.c_out, x_t);
        let raw = |hat: &Tensor| (hat - &base) / &c_out;
        let std = |raw: &Tensor| raw.flatten(1, -1).std_dim(1i64, true, false);
        let guided = raw(&guided);
        let factor = std(&raw(&hats[0])) / std(&guided) * rescale.phi + (1.0 - rescale.phi);
        base + c_out * guided * like(&factor, x_t)
    }
}

struct PreparedClassifierFree<'a, D> {
    guidance: &'a ClassifierFree<D>,
    inner: Box<dyn Prepared + 'a>,
    /// Fields `[N]`.
    scalings: Option<Scalings>,
}

impl<D> Prepared for PreparedClassifierFree<'_, D> {
    fn denoise_with_variance(&self, i: usize, x_t: &Tensor, cond: &Cond) -> (Tensor, Option<Tensor>) {
        if self.guidance.scale == 1.0 {
            return self.inner.denoise_with_variance(i, x_t, cond);
        }
        let at = |x: &Tensor, _, cond: &Cond| self.inner.denoise_with_variance(i, x, cond);
        let (hats, variance) = under(x_t, &[cond, &self.guidance.null], at);
        let scalings = self.scalings.as_ref().map(|s| s.narrow(i as i64, 1));
        (self.guidance.guided(x_t, &hats, scalings), variance)
    }
}
