//! Agreement between nearby noise levels.

use heldout_core::{Denoising, Error, Penalty, Persist, Result, like, mean_flat};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Mean squared difference between `x_start_hat` at `t` and the model's own estimate at a less noisy time `s` of the
/// same trajectory, `x_s = alpha_s x_start + sigma_s noise`, which gets no gradient: `[B, C, H, W] -> [B]`.
///
/// Song et al. 2023, Eq. 10, with the squared distance and the weights themselves for their average; `s` lies `delta`
/// in log SNR from `t`. Rows count alike, their `lambda = 1`: the estimates live in the space of the data, where the
/// loss' weights, which belong to the network's own target, would count low noise many times over. The estimate at `s`
/// is made without dropout.
///
/// Law: 0 for a denoiser that gives one image whatever it sees; 0 at times from which no step in log SNR leads away.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ConsistencyConfig {
    /// The step in log SNR, above 0.
    #[serde(default = "half")]
    pub delta: f64,
}

fn half() -> f64 {
    0.5
}

impl Default for ConsistencyConfig {
    fn default() -> Self {
        Self { delta: half() }
    }
}

impl ConsistencyConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.delta > 0.0 && self.delta.is_finite() {
            return Ok(());
        }
        Err(Error::config("delta", format!("{} is not a step in log SNR above 0, as 0.5", self.delta)))
    }
}

impl Persist for ConsistencyConfig {}

impl Penalty<Denoising<'_>> for ConsistencyConfig {
    fn name(&self) -> &'static str {
        "consistency"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let (noised, schedule) = (view.noised, view.denoiser.schedule());
        let target = tch::no_grad(|| {
            let t = &noised.t;
            let s = schedule.time_of(&(noised.marginal.log_snr() + self.delta));
            let s = s.where_self(&s.isfinite(), t).minimum(t).clamp(0.0, 1.0); // clean data and pure noise stay
            let m = schedule.marginal(&s);
            let x = &noised.x_start;
            let x_s = like(&m.alpha, x) * x + like(&m.sigma, x) * &noised.noise;
            view.denoiser.denoise(&x_s, &s, view.cond)
        });
        Ok(mean_flat(&(view.x_start_hat - target).square()))
    }
}
