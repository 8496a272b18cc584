//! Denoisers that are known in closed form. They calibrate every memorisation number.

use heldout_core::{Cond, Denoiser, NoiseSchedule};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Rows of one block of distances: bounds memory at `rows * N` numbers.
const BLOCK: i64 = 256;

/// The optimal denoiser of a finite training set: the perfect copier.
///
/// `x_start_hat = sum_i softmax_i(-|x_t - alpha x_i|^2 / (2 sigma^2)) x_i`; Gu et al. 2023, Eq. 2; Karras et al. 2022,
/// Eq. 57. Sampling with it gives training images, so that its memorised fraction is 1.
#[derive(Debug)]
pub struct EmpiricalDenoiser {
    /// `[N, D]`, f64.
    images: Tensor,
    squared_norms: Tensor,
    schedule: Rc<dyn NoiseSchedule>,
}

impl EmpiricalDenoiser {
    /// Of `images` `[N, C, H, W]`.
    pub fn new(images: &Tensor, schedule: Rc<dyn NoiseSchedule>) -> Self {
        let images = images.flatten(1, -1).to_kind(Kind::Double);
        Self { squared_norms: images.square().sum_dim_intlist(1i64, false, Kind::Double), images, schedule }
    }
}

impl Denoiser for EmpiricalDenoiser {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let m = self.schedule.marginal(t);
        let (alpha, sigma) = (m.alpha.unsqueeze(1), m.sigma.unsqueeze(1)); // [B, 1]
        let x = x_t.flatten(1, -1).to_kind(Kind::Double); // [B, D]
        let parts = (0..x.size()[0]).step_by(BLOCK as usize).map(|start| {
            let len = BLOCK.min(x.size()[0] - start);
            let rows = |t: &Tensor| t.narrow(0, start, len);
            // |x|^2 is the same for every image and drops out of the softmax.
            let alpha = rows(&alpha);
            let distance =
                alpha.square() * &self.squared_norms - 2.0f64 * alpha * rows(&x).matmul(&self.images.tr());
            let least = distance.amin([1i64], true);
            // At sigma = 0 the softmax is the nearest image: 0 / 0 must not come up.
            let variance = rows(&sigma).square().clamp_min(f64::MIN_POSITIVE);
            ((least - distance) / (2.0f64 * variance)).softmax(1, Kind::Double).matmul(&self.images)
        });
        Tensor::cat(&parts.collect::<Vec<_>>(), 0).view_as(x_t).to_kind(x_t.kind())
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.schedule.as_ref()
    }
}

/// The exact denoiser of a mixture of isotropic Gaussians: what a perfect model of that distribution computes.
///
/// Per component `mean + alpha s^2 (x_t - alpha mean) / (alpha^2 s^2 + sigma^2)`, weighted by the posterior probability
/// of the component given `x_t`; Bishop 2006, Eq. 2.116.
#[derive(Debug)]
pub struct MixtureDenoiser {
    /// `[K]`, logarithms of the weights, f64.
    log_weights: Tensor,
    /// `[K, D]`, f64.
    means: Tensor,
    /// `[K]`, f64.
    stds: Tensor,
    schedule: Rc<dyn NoiseSchedule>,
}

impl MixtureDenoiser {
    /// `weights` `[K]` (need not sum to 1), `means` `[K, ..]`, `stds` `[K]`.
    pub fn new(weights: &Tensor, means: &Tensor, stds: &Tensor, schedule: Rc<dyn NoiseSchedule>) -> Self {
        let f64 = |t: &Tensor| t.to_kind(Kind::Double);
        Self { log_weights: f64(weights).log(), means: f64(means).flatten(1, -1), stds: f64(stds), schedule }
    }
}

impl Denoiser for MixtureDenoiser {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let m = self.schedule.marginal(t);
        let x = x_t.flatten(1, -1).to_kind(Kind::Double); // [B, D]
        let (alpha, sigma) = (m.alpha.unsqueeze(1), m.sigma.unsqueeze(1)); // [B, 1]
        let variance = alpha.square() * self.stds.square() + sigma.square(); // [B, K]
        let away = x.unsqueeze(1) - alpha.unsqueeze(2) * &self.means; // [B, K, D]
        let squared = away.square().sum_dim_intlist(2i64, false, Kind::Double); // [B, K]
        let dimensions = x.size()[1] as f64;
        let log_density =
            &self.log_weights - squared / (2.0f64 * &variance) - variance.log() * (dimensions / 2.0);
        let posterior = log_density.softmax(1, Kind::Double); // [B, K]
        let pull = (alpha * self.stds.square() / variance).unsqueeze(2); // [B, K, 1]
        let component = &self.means + pull * away; // [B, K, D]
        let mean = (posterior.unsqueeze(2) * component).sum_dim_intlist(1i64, false, Kind::Double);
        mean.view_as(x_t).to_kind(x_t.kind())
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.schedule.as_ref()
    }
}
