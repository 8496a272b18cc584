//! A weighting that learns how hard each noise level is.

use heldout_core::{Error, Marginal, Result, Weighting};
use tch::{Kind, Tensor, nn};

/// `weight / e^u` with the price `u`, `u` a learned function of the noise level: every noise level then adds about as much
/// to the gradient; Karras et al. 2024 (EDM2), Eq. 14 and appendix B.2, after Kendall et al. 2018.
///
/// `u` is linear in random Fourier features of `ln(sigma / alpha) / 4` and 0 at first. Its variables lie beside the
/// model's and are trained with them; the weight that it settles on is one over the mean loss of the level.
#[derive(Debug)]
pub struct LearnedUncertainty<W> {
    /// The weighting before it.
    pub inner: W,
    frequencies: Tensor,
    phases: Tensor,
    weight: Tensor,
}

impl<W: Weighting> LearnedUncertainty<W> {
    /// With `features` Fourier features, 128 in the paper.
    pub fn new(vars: &nn::Path<'_>, inner: W, features: i64) -> Result<Self> {
        if features < 1 {
            return Err(Error::config("features", format!("{features}: at least 1 is needed")));
        }
        let fixed = |name, t: Tensor| -> Result<Tensor> {
            let mut var = vars.f_zeros_no_train(name, &[features])?;
            var.set_data(&t.to_device(vars.device()));
            Ok(var)
        };
        let cpu = (Kind::Float, tch::Device::Cpu);
        Ok(Self {
            frequencies: fixed("frequencies", Tensor::randn([features], cpu) * std::f64::consts::TAU)?,
            phases: fixed("phases", Tensor::rand([features], cpu) * std::f64::consts::TAU)?,
            weight: vars.f_zeros("weight", &[features])?,
            inner,
        })
    }

    /// `u`, `[B]`.
    fn uncertainty(&self, m: &Marginal) -> Tensor {
        let level = ((&m.sigma / &m.alpha.clamp_min(1e-12)).log() * 0.25).unsqueeze(1);
        let features = (level * &self.frequencies + &self.phases).cos();
        let scale = (2.0 / self.weight.size()[0] as f64).sqrt();
        (features * &self.weight).sum_dim_intlist(1i64, false, Kind::Double) * scale
    }
}

impl<W: Weighting> Weighting for LearnedUncertainty<W> {
    fn weight(&self, m: &Marginal) -> Tensor {
        self.inner.weight(m) * (-self.uncertainty(m)).exp()
    }

    fn regularizer(&self, m: &Marginal) -> Option<Tensor> {
        Some(self.uncertainty(m))
    }
}
