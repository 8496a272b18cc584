//! The smallest parts that make a training run.

use heldout_core::{
    Backbone, Batch, BatchSource, Clock, Cond, Denoiser, Denoising, Evaluation, Input, Marginal,
    NoiseSchedule, Noised, Objective, Parameterization, Penalty, Persist, Preconditioned, Probe, Recorder,
    Result, Scalings, Site, like, mean_flat,
};
use std::f64::consts::FRAC_PI_2;
use tch::{Device, Kind, Tensor, nn};

/// `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`.
#[derive(Debug, Clone, Copy)]
pub struct TrigSchedule;

impl NoiseSchedule for TrigSchedule {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let (alpha, sigma) = ((t * FRAC_PI_2).cos(), (t * FRAC_PI_2).sin());
        Marginal {
            d_alpha: &sigma * -FRAC_PI_2,
            d_sigma: &alpha * FRAC_PI_2,
            alpha,
            sigma,
            noise_label: t * 999.0,
        }
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        (log_snr * -0.5).exp().atan() / FRAC_PI_2
    }
}

/// `v = alpha noise - sigma x_start` on a variance-preserving schedule.
#[derive(Debug, Clone, Copy)]
pub struct VPrediction;

impl Parameterization for VPrediction {
    fn scalings(&self, m: &Marginal) -> Scalings {
        Scalings {
            c_skip: m.alpha.copy(),
            c_out: -&m.sigma,
            c_in: m.alpha.ones_like(),
            c_noise: m.noise_label.copy(),
        }
    }
}

/// Two linear layers on the flattened input and the noise level.
#[derive(Debug)]
pub struct Mlp {
    first: nn::Linear,
    last: nn::Linear,
}

impl Mlp {
    /// For inputs of `features` numbers.
    pub fn new(vs: &nn::Path<'_>, features: i64) -> Self {
        let layer = |name, a, b| nn::linear(vs / name, a, b, nn::LinearConfig::default());
        Self { first: layer("first", features + 1, 32), last: layer("last", 32, features) }
    }
}

impl Backbone for Mlp {
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let x = Tensor::cat(&[input.x.flatten(1, -1), (input.noise_level * 1e-3).unsqueeze(1)], 1);
        let h = probe.at(Site::Block(0), x.apply(&self.first).silu());
        h.apply(&self.last).view_as(input.x)
    }
}

/// Two blobs in the plane, `[n, 2, 1, 1]`.
#[derive(Debug)]
pub struct Blobs {
    /// Rows of a batch.
    pub n: i64,
    /// The seed.
    pub seed: u64,
}

impl BatchSource for Blobs {
    fn batch(&mut self, clock: Clock) -> Result<Batch> {
        tch::manual_seed(heldout_core::stream(self.seed, "data", clock.step, 0) as i64);
        let sign = Tensor::randint(2, [self.n, 1], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
        let x = sign * 0.7 + Tensor::randn([self.n, 2], (Kind::Float, Device::Cpu)) * 0.1;
        Ok(Batch::new(x.view([self.n, 2, 1, 1]), Cond::default()))
    }
}

/// Mean squared error of a network that should reproduce its input: the smallest objective.
#[derive(Debug)]
pub struct SquaredError(pub Mlp);

impl Persist for SquaredError {}

impl Objective for SquaredError {
    fn evaluate(&mut self, batch: &Batch, _: Clock) -> Result<Evaluation> {
        let x = &batch.x_start;
        let level = Tensor::zeros([x.size()[0]], (x.kind(), x.device()));
        let noisy = x + 0.1 * x.randn_like();
        let input = Input { x: &noisy, noise_level: &level, cond: &batch.cond, train: true };
        let loss = (self.0.forward(input, &mut ()) - x).square().mean(Kind::Float);
        Ok(Evaluation { terms: vec![("squared_error", loss.detach())], rows: None, loss })
    }
}

#[derive(Debug)]
struct GaussianDenoiser<S>(S, f64);

impl<S: NoiseSchedule> Denoiser for GaussianDenoiser<S> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let (m, variance) = (self.0.marginal(t), self.1 * self.1);
        like(&(&m.alpha * variance / (m.alpha.square() * variance + m.sigma.square())), x_t) * x_t
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        &self.0
    }
}

/// The exact denoiser of `N(0, std^2)`.
pub fn gaussian_denoiser(schedule: impl NoiseSchedule, std: f64) -> impl Denoiser {
    GaussianDenoiser(schedule, std)
}

/// A denoising step of `model` on `batch`, with the noise of libtorch's generator, shown to `look`: what a penalty sees.
pub fn denoising_step<T>(
    model: &Preconditioned,
    batch: &Batch,
    clock: Clock,
    penalty: &dyn for<'a> Penalty<Denoising<'a>>,
    look: impl FnOnce(&Denoising<'_>) -> T,
) -> T {
    let x_start = &batch.x_start;
    let t = Tensor::rand([batch.len()], (Kind::Double, x_start.device())) * 0.98 + 0.01;
    let marginal = model.schedule.marginal(&t);
    let noise = x_start.randn_like();
    let mut x_t = like(&marginal.alpha, x_start) * x_start + like(&marginal.sigma, x_start) * &noise;
    if penalty.differentiates_input() {
        x_t = x_t.set_requires_grad(true);
    }
    let scalings = model.parameterization.scalings(&marginal);
    let mut taps = Recorder { wanted: penalty.taps(), seen: Vec::new() };
    let (raw, variance) =
        Preconditioned::parts(model.raw(&x_t, &scalings, &batch.cond, true, &mut taps), x_start);
    let (a, b) = scalings.target(&marginal);
    let target = like(&a, x_start) * x_start + like(&b, x_start) * &noise;
    let weight = scalings.c_out.square().to_kind(Kind::Float);
    let loss = mean_flat(&(&raw - &target).square()) * &weight;
    let x_start_hat = like(&scalings.c_skip, x_start) * &x_t + like(&scalings.c_out, x_start) * raw;
    look(&Denoising {
        denoiser: model,
        noised: &Noised { x_start: x_start.shallow_clone(), noise, t, x_t, marginal },
        x_start_hat: &x_start_hat,
        target: &target,
        weight: &weight,
        loss: &loss,
        variance: variance.as_ref(),
        taps: &taps.seen,
        cond: &batch.cond,
        clock,
    })
}
