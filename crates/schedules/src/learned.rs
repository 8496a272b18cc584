//! A schedule that is trained with the model.

use crate::continuous::variance_preserving_at;
use heldout_core::{
    Denoiser, Denoising, Error, Marginal, NoiseSchedule, Penalty, Persist, Result, like, mean_flat,
};
use std::rc::Rc;
use tch::{Kind, Tensor, nn};

/// Steps of the scale on which networks are told a noise level.
const LABELS: f64 = 1000.0;

/// Variance-preserving, `-log SNR` a monotone network of time; Kingma et al. 2021 (VDM), section 3.2 and appendix H:
/// `l1(t) + l3(sigmoid(l2(l1(t))))` with positive weights, stretched to fixed ends.
///
/// The model sees the schedule as a constant; [`ScheduleVariance`] trains it. The label is a fixed function of the noise
/// level, so that a level keeps its name while the schedule moves.
#[derive(Debug)]
pub struct LearnedSchedule {
    /// Weights before the softplus that makes them positive: of `l1` `[1]`, `l2` `[hidden]`, `l3` `[hidden]`.
    weights: [Tensor; 3],
    /// Of `l2`, `[hidden]`.
    bias: Tensor,
    /// `-log SNR` at times 0 and 1.
    ends: (f64, f64),
}

impl LearnedSchedule {
    /// `log_snr` at times 0 and 1 (13.3 and -5 in the paper); `hidden` numbers in the middle (1024 in the paper).
    pub fn new(vars: &nn::Path<'_>, log_snr: [f64; 2], hidden: i64) -> Result<Self> {
        let [high, low] = log_snr;
        if !(high > low && high.is_finite() && low.is_finite()) {
            return Err(Error::config("log_snr", format!("{log_snr:?}: two falling numbers are needed")));
        }
        if hidden < 1 {
            return Err(Error::config("hidden", format!("{hidden}: at least 1 is needed")));
        }
        // At first nearly a straight line, with units that bend it spread over all times.
        let one = softplus_inverse(1.0);
        let weight = |layer, n: i64, value| (vars / layer).f_var("weight", &[n], nn::Init::Const(value));
        let spread = Tensor::linspace(4.0, -4.0, hidden, (Kind::Float, vars.device()));
        let mut bias = (vars / "l2").f_zeros("bias", &[hidden])?;
        tch::no_grad(|| bias.copy_(&spread));
        let steep = softplus_inverse(8.0);
        let small = softplus_inverse(1.0 / hidden as f64);
        let weights = [weight("l1", 1, one)?, weight("l2", hidden, steep)?, weight("l3", hidden, small)?];
        Ok(Self { weights, bias, ends: (-high, -low) })
    }

    /// `-log SNR` and its derivative by time, `[B]` f64, with the graph of the schedule's weights.
    fn gamma(&self, t: &Tensor) -> (Tensor, Tensor) {
        let positive = |w: &Tensor| w.to_kind(Kind::Double).softplus();
        let [first, second, third] = [0, 1, 2].map(|i| positive(&self.weights[i]));
        let bias = self.bias.to_kind(Kind::Double);
        let t = &t.to_device(bias.device());
        let raw = |t: &Tensor| {
            let line = t * &first;
            let hidden = (line.unsqueeze(1) * &second + &bias).sigmoid();
            let slope =
                (&hidden * (1.0f64 - &hidden) * &third * &second).sum_dim_intlist(1i64, false, Kind::Double);
            (&line + (hidden * &third).sum_dim_intlist(1i64, false, Kind::Double), (slope + 1.0) * &first)
        };
        let ends = raw(&Tensor::from_slice(&[0.0, 1.0]).to_device(t.device())).0;
        let (start, end) = (ends.narrow(0, 0, 1), ends.narrow(0, 1, 1));
        let (gamma, slope) = raw(t);
        let stretch = (self.ends.1 - self.ends.0) / (end - &start);
        ((gamma - start) * &stretch + self.ends.0, slope * stretch)
    }

    fn detached(&self, t: &Tensor) -> (Tensor, Tensor) {
        // Only the weights are constants: the derivative by time stays in the graph where `t` asks for it.
        let constant = Self {
            weights: [0, 1, 2].map(|i| self.weights[i].detach()),
            bias: self.bias.detach(),
            ends: self.ends,
        };
        constant.gamma(t)
    }
}

impl NoiseSchedule for LearnedSchedule {
    fn marginal(&self, t: &Tensor) -> Marginal {
        let (gamma, slope) = self.detached(t);
        // alpha^2 = sigmoid(-gamma): d ln alpha / d gamma = -sigma^2 / 2.
        let label = (&gamma * 0.5).exp().atan() * (LABELS * std::f64::consts::FRAC_2_PI);
        let log_alpha = (-&gamma).log_sigmoid() * 0.5;
        let d_alpha = log_alpha.exp() * gamma.sigmoid() * slope * -0.5;
        variance_preserving_at(&log_alpha, (gamma.log_sigmoid() * 0.5).exp(), d_alpha, label)
    }

    fn time_of(&self, log_snr: &Tensor) -> Tensor {
        let aim = -log_snr.to_device(self.bias.device());
        let (mut low, mut high) = (aim.zeros_like(), aim.ones_like());
        tch::no_grad(|| {
            for _ in 0..50 {
                let middle = (&low + &high) * 0.5;
                let below = self.detached(&middle).0.lt_tensor(&aim);
                low = middle.where_self(&below, &low);
                high = high.where_self(&below, &middle);
            }
        });
        (low + high) * 0.5
    }
}

/// The variance of the loss over times, as a penalty that trains a [`LearnedSchedule`] and nothing else; Kingma et al.
/// 2021, appendix I.2.
///
/// With `l = gamma' e / 2` the variational bound's term at one time, `e` the squared error of the noise, its gradient is
/// that of `l^2`: the mean of `l` does not depend on the schedule. One more forward pass and a backward pass to its input.
#[derive(Debug)]
pub struct ScheduleVariance {
    /// Shared with the model.
    pub schedule: Rc<LearnedSchedule>,
}

impl Persist for ScheduleVariance {}

impl Penalty<Denoising<'_>> for ScheduleVariance {
    fn name(&self) -> &'static str {
        "schedule_variance"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let Denoising { denoiser, noised, cond, .. } = *view;
        let t = noised.t.detach().set_requires_grad(true);
        let m = self.schedule.marginal(&t);
        let x = &noised.x_start;
        let x_t = like(&m.alpha, x) * x + like(&m.sigma, x) * &noised.noise;
        let x_start_hat = Denoiser::denoise(denoiser, &x_t, &t, cond);
        let snr = (&m.alpha / &m.sigma).square();
        // |noise_hat - noise|^2 = SNR |x_start_hat - x_start|^2.
        let error = snr * mean_flat(&(x_start_hat - x).square()).to_kind(Kind::Double);
        let slope = Tensor::f_run_backward(&[error.sum(Kind::Double)], &[&t], false, false)?.remove(0);
        let error = error.detach();
        let (gamma, d_gamma) = self.schedule.gamma(&noised.t);
        let (now, by_slope) = (d_gamma.detach(), &error.square() * 0.5);
        let surrogate = &now * by_slope * &d_gamma + &now * &error * slope * gamma * 0.5;
        // Worth what it should be, with the surrogate's gradient.
        let value = (now * error * 0.5).square();
        Ok((value + &surrogate - surrogate.detach()).to_kind(Kind::Float))
    }
}

/// `x` with `softplus(x) = y`, for `y > 0`.
fn softplus_inverse(y: f64) -> f64 {
    y + (-(-y).exp()).ln_1p()
}
