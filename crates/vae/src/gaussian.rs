//! The distribution over latents that a KL autoencoder gives for an image.

use tch::{Kind, Tensor};

/// Independent Gaussians, one for each number of a latent; diffusers' `DiagonalGaussianDistribution`.
#[derive(Debug)]
pub struct DiagonalGaussian {
    /// `[B, c, h, w]`.
    pub mean: Tensor,
    /// Log variance, `[B, c, h, w]`, in `[-30, 20]`.
    pub logvar: Tensor,
}

impl DiagonalGaussian {
    /// From both, one after the other along the channels: `[B, 2c, h, w]`.
    pub fn of_moments(moments: &Tensor) -> Self {
        let channels = moments.size()[1] / 2;
        let logvar = moments.narrow(1, channels, channels).clamp(-30.0, 20.0);
        Self { mean: moments.narrow(1, 0, channels), logvar }
    }

    /// A draw from libtorch's generator, `[B, c, h, w]`.
    pub fn sample(&self) -> Tensor {
        self.sample_with(&self.mean.detach().randn_like())
    }

    /// `mean + std * noise` of given unit Gaussians `[B, c, h, w]`: Kingma and Welling 2014, Eq. 10.
    pub fn sample_with(&self, noise: &Tensor) -> Tensor {
        &self.mean + (&self.logvar * 0.5).exp() * noise
    }

    /// The most likely latent, `[B, c, h, w]`.
    pub fn mode(&self) -> &Tensor {
        &self.mean
    }

    /// Divergence from the unit Gaussian in nats, `[B]`: Kingma and Welling 2014, appendix B.
    pub fn kl(&self) -> Tensor {
        let each = self.mean.square() + self.logvar.exp() - 1.0 - &self.logvar;
        each.flatten(1, -1).sum_dim_intlist(1i64, false, Kind::Float) * 0.5
    }
}
