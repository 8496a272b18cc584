//! The values that flow between the parts. `B` batch, `C` channels, `H`, `W` space.

use tch::{Kind, Tensor};

/// What the network is told besides `x_t` and the noise level.
#[derive(Debug, Default)]
pub struct Cond {
    /// Class ids, `[B]`, `Int64`.
    pub label: Option<Tensor>,
    /// Token features, `[B, L, D]`.
    pub context: Option<Tensor>,
}

impl Cond {
    /// The same tensors under new handles.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        let clone = |t: &Option<Tensor>| t.as_ref().map(Tensor::shallow_clone);
        Self { label: clone(&self.label), context: clone(&self.context) }
    }

    /// Rows `start..start + len` of the batch.
    #[must_use]
    pub fn narrow(&self, start: i64, len: i64) -> Self {
        let rows = |t: &Option<Tensor>| t.as_ref().map(|t| t.narrow(0, start, len));
        Self { label: rows(&self.label), context: rows(&self.context) }
    }
}

/// Training examples.
#[derive(Debug)]
pub struct Batch {
    /// Clean data `[B, C, H, W]`, images in `[-1, 1]`.
    pub x_start: Tensor,
    /// What goes with it.
    pub cond: Cond,
}

impl Batch {
    /// The same tensors under new handles.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        Self { x_start: self.x_start.shallow_clone(), cond: self.cond.shallow_clone() }
    }
}

/// The forward process at given times, `x_t = alpha * x_start + sigma * noise`; each `[B]`, f64.
#[derive(Debug)]
pub struct Marginal {
    /// Multiplier of the data.
    pub alpha: Tensor,
    /// Multiplier of the unit Gaussian.
    pub sigma: Tensor,
    /// `d alpha / d t`.
    pub d_alpha: Tensor,
    /// `d sigma / d t`.
    pub d_sigma: Tensor,
    /// What a network trained on this schedule is told about `t`, unless its parameterisation says otherwise: the
    /// integer step of a discrete schedule, the same scale on a continuous one.
    pub noise_label: Tensor,
}

impl Marginal {
    /// `ln(alpha^2 / sigma^2)`, `[B]`.
    pub fn log_snr(&self) -> Tensor {
        2.0 * (self.alpha.log() - self.sigma.log())
    }
}

/// `x_start_hat = c_skip * x_t + c_out * F(c_in * x_t, c_noise)`; each `[B]`, f64. Karras et al. 2022, Eq. 7.
#[derive(Debug)]
pub struct Scalings {
    /// Multiplier of `x_t` around the network.
    pub c_skip: Tensor,
    /// Multiplier of the network's output.
    pub c_out: Tensor,
    /// Multiplier of the network's input.
    pub c_in: Tensor,
    /// What the network is told about the noise level.
    pub c_noise: Tensor,
}

impl Scalings {
    /// `(a, b)` of the target `F* = a * x_start + b * noise`: what makes `x_start_hat` equal `x_start`.
    pub fn target(&self, m: &Marginal) -> (Tensor, Tensor) {
        ((1.0f64 - &self.c_skip * &m.alpha) / &self.c_out, -(&self.c_skip * &m.sigma) / &self.c_out)
    }
}

/// Training points on the forward process.
#[derive(Debug)]
pub struct Noised {
    /// Clean data `[B, C, H, W]`.
    pub x_start: Tensor,
    /// The noise that the target is made of, `[B, C, H, W]`.
    pub noise: Tensor,
    /// Times `[B]`, f64.
    pub t: Tensor,
    /// `[B, C, H, W]`.
    pub x_t: Tensor,
    /// The schedule at `t`.
    pub marginal: Marginal,
}

/// `c` `[B]` as `[B, 1, 1, ..]` in the kind of `x` `[B, ..]`.
pub fn like(c: &Tensor, x: &Tensor) -> Tensor {
    let mut shape = vec![1; x.dim()];
    shape[0] = -1;
    c.view(shape.as_slice()).to_kind(x.kind())
}

/// Mean over everything but the batch: `[B, ..] -> [B]`, f32.
pub fn mean_flat(x: &Tensor) -> Tensor {
    x.reshape([x.size()[0], -1]).mean_dim(1i64, false, Kind::Float)
}
