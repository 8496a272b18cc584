//! Weights of `|x_start_hat - x_start|^2` by noise level.

use heldout_core::{Error, Marginal, NoiseSchedule, Result, Weighting};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A loss weighting; `SNR = alpha^2 / sigma^2`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum LossWeighting {
    /// 1: the plain squared error of a network that predicts `x_start`.
    Constant,
    /// `SNR`: the plain squared error of a network that predicts the noise; Ho et al. 2020, Eq. 14.
    Snr,
    /// `SNR + 1`: the plain squared error of a network that predicts `v`; Salimans and Ho 2022, section 4.
    SnrPlusOne,
    /// `min(SNR, gamma)`; Hang et al. 2023, Eq. 8; gamma 5 in the paper.
    MinSnr {
        /// The cap.
        gamma: f64,
    },
    /// `SNR gamma / (SNR + gamma)`: the cap without its corner; Crowson et al. 2024, section 3.3; gamma 5 there.
    SoftMinSnr {
        /// The cap.
        gamma: f64,
    },
    /// `SNR / (k + SNR)^gamma`; Choi et al. 2022 (P2), Eq. 8, times the SNR of the plain noise loss; 1 and 1 there.
    P2 {
        /// Keeps the weight of little noise finite.
        k: f64,
        /// Strength; 0 is `snr`.
        gamma: f64,
    },
    /// `SNR + 1 / sigma_data^2`, unit weight at initialisation; Karras et al. 2022, Table 1, "EDM"; 0.5 there.
    Edm {
        /// Standard deviation of the data.
        sigma_data: f64,
    },
    /// `SNR sigmoid(bias - log SNR)`; Hoogeboom et al. 2024 (SiD2), Eq. 11; Kingma and Gao 2023. Use it within
    /// `per_log_snr`, as they do.
    Sigmoid {
        /// Where on the log-SNR axis the weight falls.
        bias: f64,
    },
    /// `inner` as a density over log SNR, whatever schedule times are drawn from: times `-1/2 d log SNR / d t`.
    ///
    /// Kingma and Gao 2023, Eq. 7. Of `snr` it is the variational bound; Kingma et al. 2021, Eq. 17.
    PerLogSnr {
        /// Weight of a noise level.
        inner: Box<Self>,
    },
}

impl LossWeighting {
    /// Which field cannot be honoured, or that the weight has no end on this schedule.
    pub fn check_on(&self, schedule: &dyn NoiseSchedule) -> Result<()> {
        self.check()?;
        let weight = self.weight(&schedule.marginal(&Tensor::from_slice(&[1.0]))).double_value(&[0]);
        if weight < 1e9 {
            return Ok(());
        }
        let reason =
            "grows without end where this schedule ends in pure noise: weigh by snr, min_snr or sigmoid";
        Err(Error::config("kind", reason))
    }

    fn check(&self) -> Result<()> {
        let positive = |field: &str, x: f64| {
            let reason = || format!("{x} is not a positive number");
            if x > 0.0 && x.is_finite() { Ok(()) } else { Err(Error::config(field, reason())) }
        };
        match *self {
            Self::MinSnr { gamma } | Self::SoftMinSnr { gamma } => positive("gamma", gamma),
            Self::P2 { k, gamma } => {
                positive("k", k)?;
                if gamma == 0.0 { Ok(()) } else { positive("gamma", gamma) }
            }
            Self::Edm { sigma_data } => positive("sigma_data", sigma_data),
            Self::Sigmoid { bias } if !bias.is_finite() => {
                Err(Error::config("bias", format!("{bias} is not finite")))
            }
            Self::PerLogSnr { ref inner } => inner.check().map_err(|e| e.within("inner")),
            Self::Constant | Self::Snr | Self::SnrPlusOne | Self::Sigmoid { .. } => Ok(()),
        }
    }
}

impl Weighting for LossWeighting {
    fn weight(&self, m: &Marginal) -> Tensor {
        self.weight_at(&(&m.alpha / &m.sigma).square(), m)
    }
}

impl LossWeighting {
    fn weight_at(&self, snr: &Tensor, m: &Marginal) -> Tensor {
        match *self {
            Self::Constant => snr.ones_like(),
            Self::Snr => snr.shallow_clone(),
            Self::SnrPlusOne => snr + 1.0,
            Self::MinSnr { gamma } => snr.clamp_max(gamma),
            Self::SoftMinSnr { gamma } => snr * gamma / (snr + gamma),
            Self::P2 { k, gamma } => snr / (snr + k).pow_tensor_scalar(gamma),
            Self::Edm { sigma_data } => snr + sigma_data.powi(-2),
            // sigmoid(b - ln SNR) = 1 / (1 + SNR e^-b)
            Self::Sigmoid { bias } => snr / (snr * (-bias).exp() + 1.0),
            Self::PerLogSnr { ref inner } => {
                // At pure noise the slope has no end while the weight is 0: their product is taken just before it.
                let alpha = m.alpha.clamp_min(1e-12);
                let slope: Tensor = &m.d_sigma / &m.sigma - &m.d_alpha / &alpha; // -1/2 d log SNR / d t
                inner.weight_at(&(alpha / &m.sigma).square(), m) * slope
            }
        }
    }
}
